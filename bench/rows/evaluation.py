"""Training and scoring of students, retrieval scores at COCO's size, and selections."""

from pathlib import Path

import torch
from torch import Generator, Tensor
from torch.nn.functional import normalize

from bench import published_selections, published_students
from bench.inputs import CAPTIONS_EACH, SCORED_IMAGES, TEMPERATURE, encoders, flat, pictures, split_of
from bench.measuring import Pieces, Size
from bench.rows.row import WITHIN, Memory, Row
from raydd.config import StudentsConfig
from raydd.data.augment import transform_of
from raydd.distill.heads import initial_heads
from raydd.distill.losses import weighted_bce
from raydd.distill.selections.evidence import Joint
from raydd.distill.selections.herding import herd
from raydd.distill.selections.k_center import centres
from raydd.distill.similarity import Similarity
from raydd.distill.synthetic import SyntheticSet
from raydd.evaluate.retrieval import KS, retrieval_scores
from raydd.evaluate.students import FIRST_SEED, hits_of_heads, train_students

_STUDENTS, _EPOCHS = 5, 101  # the published code trains one epoch more than its setting of 100
_TESTS = 6  # tests of a student in the published code: after epochs 0, 20, ..., 100
_PAIRS = 99
_SLICE = 20  # test images that one piece encodes
_FEW_EPOCHS = 9  # setting of raydd's students in one piece, which run one epoch more
_WIDTH = 1280


def _student_pieces(size: Size, folder: Path) -> Pieces:  # noqa: ARG001
    models, recipe = encoders(size.image_size), StudentsConfig(rate="published")
    images, captions = pictures(_PAIRS)
    transform = transform_of("none", size.image_size)
    width, rates = models.image.width, (0.01, 0.01)
    generator = Generator().manual_seed(0)
    texts, similarity = torch.randn(_PAIRS, models.text.width, generator=generator), torch.eye(_PAIRS)
    test = split_of(SCORED_IMAGES, width, models.text.width)
    heads = initial_heads(width, models.text.width, width, 0)

    def pixels_of(pictures) -> Tensor:
        return torch.stack([transform(picture) for picture in pictures]).float() / 255

    pixels, test_captions = pixels_of(images), [*captions, captions[0]]
    features = torch.randn(_PAIRS, width, generator=generator)
    pairs = SyntheticSet(
        features, texts, Similarity("identity", _PAIRS, {}), *rates, "wbce", torch.arange(_PAIRS), torch.arange(_PAIRS)
    )
    embedded = [normalize(torch.randn(rows, width, generator=generator)) for rows in (SCORED_IMAGES, len(test.texts))]
    cosines, owners = (embedded[0] @ embedded[1].T).numpy(), test.image_of_text.numpy()

    def published_epoch() -> object:
        return published_students.train_student(
            flat(heads),
            pixels,
            texts,
            similarity,
            rates,
            models.plain,
            width=width,
            temperature=TEMPERATURE,
            epochs=0,
            batch_size=recipe.batch_size,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            dropout=recipe.dropout,
            seed=FIRST_SEED,
            loss=weighted_bce,
        )

    @torch.no_grad()
    def encoded_slice() -> None:
        models.plain(pixels_of(images[:_SLICE]))
        models.text.encode(test_captions)

    def epochs() -> object:
        short_recipe = StudentsConfig(rate="published", epochs=_FEW_EPOCHS)
        seeds = range(_STUDENTS)
        return train_students(pairs, short_recipe, width=width, temperature=TEMPERATURE, seeds=seeds)

    run = {
        "published epoch": published_epoch,
        "slice of test encoded": encoded_slice,
        "test ranked": lambda: published_students.recalls(cosines, owners),
        "10 epochs of 5 students": epochs,
        "one student scored": lambda: hits_of_heads(*heads, test),
    }
    tests = _STUDENTS * _TESTS
    baseline = {
        "published epoch": _STUDENTS * _EPOCHS,
        "slice of test encoded": tests * SCORED_IMAGES / _SLICE,
        "test ranked": tests,
    }
    return Pieces(run, baseline, {"10 epochs of 5 students": _EPOCHS / 10, "one student scored": _STUDENTS})


def _retrieval_pieces(size: Size, folder: Path) -> Pieces:  # noqa: ARG001
    images, captions = size.retrieval
    generator = Generator().manual_seed(0)
    image, text = (normalize(torch.randn(count, _WIDTH, generator=generator)) for count in size.retrieval)
    owners = torch.arange(images).repeat_interleave(captions // images)
    run = {
        "product and top-k": lambda: (image @ text.T).topk(max(KS), dim=1),
        "scores": lambda: retrieval_scores(image, text, owners),
    }
    return Pieces(run, {"product and top-k": 1}, {"scores": 1})


def _selection_pieces(size: Size, folder: Path) -> Pieces:  # noqa: ARG001
    chosen, candidates = size.selection
    images = candidates // CAPTIONS_EACH
    generator = Generator().manual_seed(0)
    image, text = (normalize(torch.randn(count, _WIDTH, generator=generator)) for count in (images, candidates))
    owners = torch.arange(images).repeat_interleave(CAPTIONS_EACH)
    joint, joint_features = Joint(image.half(), text.half(), owners), torch.cat([image[owners], text], dim=1)
    piece_pairs = min(chosen, 20)
    # A loop takes equally long for each choice, so one choice is run. K-Center draws its first centre at random, so its
    # second choice is run.
    run = {
        "a herded pair": lambda: published_selections.herd(joint_features, owners, 1),
        "a centre": lambda: published_selections.centres(joint_features, owners, 2, first=0),
        f"{piece_pairs} herded pairs": lambda: herd(joint, piece_pairs),
        f"{piece_pairs} centres": lambda: centres(joint, piece_pairs, seed=0),
    }
    runs = chosen / piece_pairs
    return Pieces(
        run,
        {"a herded pair": chosen, "a centre": chosen},
        {f"{piece_pairs} herded pairs": runs, f"{piece_pairs} centres": runs},
    )


EVALUATION = (
    Row(
        "students",
        "five students of 100 epochs on 99 pairs, and their scores on 1,000 images",
        "one epoch and one slice of a test, both with encoding; times 505 epochs and 6 tests of each student",
        floor=20,
        aim=50,
        quick_floor=3,
        pieces=_student_pieces,
    ),
    Row(
        "retrieval",
        "retrieval scores of 5,000 images and 25,000 captions",
        "one matrix product and one top-k",
        floor=1.5,
        quick_floor=2.5,
        measure=WITHIN,
        memory=Memory(megabytes=500),
        pieces=_retrieval_pieces,
    ),
    Row(
        "selections",
        "herding and K-Center, 500 of 30,000 pairs",
        "loops over all candidates: one choice of each, times 500",
        floor=20,
        quick_floor=5,
        pieces=_selection_pieces,
    ),
)
