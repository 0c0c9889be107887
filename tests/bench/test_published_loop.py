"""raydd beside the published loop, on the same inputs and draws: the same numbers."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from matrix_scores import matrix_scores
from PIL import Image
from small_pairs import IMAGE_WIDTH, TEXT_WIDTH, WIDTH
from torch import Generator, Tensor

from bench import published_loop
from bench.published_students import recalls, train_student
from raydd.config import DistillConfig, StudentsConfig
from raydd.distill.draws import draw_step
from raydd.distill.engine import Distillation
from raydd.distill.experts import Experts, sgd_step_
from raydd.distill.heads import Head, dropout_mask, head_size, initial_heads
from raydd.distill.heads_gradient import heads_gradient
from raydd.distill.image_variables import LearnedFeatures, LearnedPixels, Spread
from raydd.distill.legs import Leg
from raydd.distill.losses import LOSSES
from raydd.distill.matching import LearnedPairs, StudentRun
from raydd.distill.similarity import Similarity
from raydd.distill.student import StudentPlan
from raydd.distill.synthetic import SyntheticSet
from raydd.evaluate.students import FIRST_SEED, train_students

DOUBLE, SINGLE = 1e-8, 1e-5
N, TAU = 12, 0.07
SETTINGS = DistillConfig(
    pairs=N,
    minibatch=4,
    student_steps=4,
    max_start_epoch=2,
    target_epochs=2,
    steps_per_encoding=1,
    rank=3,
    images="features",
    loss="wbce",
    gradient="constant-memory",
    optimizer="sgd",
    momentum=0.0,
    schedule="constant",
    start_rate=0.2,
    image_lr=0.01,
    text_lr=0.02,
    similarity_lr=0.005,
    rate_lr=0.001,
)


def agree(ours: Tensor, theirs: Tensor, tolerance: float, what: str = "") -> None:
    """Equal beside the size of the whole tensor."""
    assert ours.shape == theirs.shape, what
    error = float((ours - theirs).norm() / theirs.norm().clamp_min(1e-30))
    assert error < tolerance, f"{what} differs by {error:.1e}"


def photograph(number: int) -> Image.Image:
    noise = torch.randint(0, 256, (8, 8, 3), generator=Generator().manual_seed(number), dtype=torch.uint8)
    return Image.fromarray(noise.numpy())


def to_pixels(picture: Image.Image) -> Tensor:
    return torch.tensor(list(picture.tobytes()), dtype=torch.float64) / 255


def encode_images(pixels: Tensor) -> Tensor:
    """A fixed network from pixels, however many, to image features."""
    rows = pixels.flatten(1)
    weight = torch.randn(rows.shape[1], IMAGE_WIDTH, generator=Generator().manual_seed(7), dtype=torch.float64)
    return torch.tanh(rows @ weight.to(rows.dtype) / 4)


def encode_texts(captions: Sequence[str]) -> Tensor:
    rows = [torch.randn(TEXT_WIDTH, generator=Generator().manual_seed(len(c)), dtype=torch.float64) for c in captions]
    return torch.stack(rows)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, DOUBLE), (torch.float32, SINGLE)])
def test_expert_steps(dtype: torch.dtype, tolerance: float) -> None:
    heads = [Head(*(part.to(dtype) for part in head)) for head in initial_heads(IMAGE_WIDTH, TEXT_WIDTH, WIDTH, 0)]
    flats = heads[0].flat(), heads[1].flat()
    for step in range(3):
        pictures = [photograph(10 * step + number) for number in range(6)]
        captions = ["a" * (10 * step + number + 1) for number in range(6)]
        masks = tuple(dropout_mask((6, WIDTH), 0.1, Generator().manual_seed(step + side)) for side in (0, 50))
        masks = tuple(None if mask is None else mask.to(dtype) for mask in masks)
        theirs = published_loop.expert_step(
            flats,
            pictures,
            captions,
            to_pixels,
            lambda pixels: encode_images(pixels).to(dtype),
            lambda captions: encode_texts(captions).to(dtype),
            width=WIDTH,
            lr=0.1,
            temperature=TAU,
            dropout=masks,
        )
        features = encode_images(torch.stack([to_pixels(picture) for picture in pictures])).to(dtype)
        texts = encode_texts(captions).to(dtype)
        ours = sgd_step_(heads[0], heads[1], features, texts, lr=0.1, temperature=TAU, dropout=masks)
        assert float(ours) == pytest.approx(theirs, rel=tolerance)
        for side in range(2):
            agree(heads[side].flat(), flats[side].detach(), tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, DOUBLE), (torch.float32, SINGLE)])
@pytest.mark.parametrize("loss", ["wbce", "infonce"])
def test_a_distillation_step_on_pixels(tmp_path: Path, loss: str, dtype: torch.dtype, tolerance: float) -> None:
    generator = Generator().manual_seed(3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    size = head_size(IMAGE_WIDTH, WIDTH), head_size(TEXT_WIDTH, WIDTH)
    trajectory = [(normal(size[0]) / 3, normal(size[1]) / 3) for _ in range(4)]
    published_loop.write_trajectory(tmp_path / "expert.pt", trajectory)
    variables = published_loop.Variables(
        image=normal(N, 3, 4, 4),
        text=normal(N, TEXT_WIDTH),
        diagonal=1 + 0.1 * normal(N),
        left=normal(N, 3),
        right=0.1 * normal(N, 3),
        rates=torch.tensor([0.2, 0.3], dtype=dtype),
    )
    minibatches = torch.stack([torch.randperm(N, generator=generator)[:4] for _ in range(3)])
    permutations = torch.stack([torch.randperm(4, generator=generator) for _ in range(3)])
    ratios = tuple(torch.rand(3, generator=generator).tolist())
    total, theirs = published_loop.distillation_step(
        variables,
        tmp_path / "expert.pt",
        published_loop.Plan(1, 3, minibatches, permutations, ratios),
        encode_images,
        width=WIDTH,
        alpha=3.0,
        temperature=TAU,
        loss=LOSSES[loss],
    )
    leaves = {name: value.clone().requires_grad_() for name, value in vars(variables).items()}
    features = encode_images(leaves["image"])
    similarity = Similarity("low-rank", N, {name: leaves[name] for name in ("diagonal", "left", "right")}, 3.0)
    start, target = (
        (Head.of_flat(trajectory[epoch][0], IMAGE_WIDTH, WIDTH), Head.of_flat(trajectory[epoch][1], TEXT_WIDTH, WIDTH))
        for epoch in (1, 3)
    )
    run = StudentRun(StudentPlan(minibatches, permutations, ratios), LOSSES[loss], TAU, exact=False)
    pairs = LearnedPairs(features, leaves["text"], similarity, leaves["rates"])
    ours = heads_gradient(run, Leg.between(start, target), pairs)
    assert ours.loss == pytest.approx(total, rel=tolerance)
    gradients = {name.removeprefix("similarity."): gradient for name, gradient in ours.gradients.items()}
    gradients["image"] = torch.autograd.grad(features, leaves["image"], gradients["image"])[0]
    for name in leaves:
        agree(gradients[name], getattr(theirs, name), tolerance, name)


@pytest.mark.parametrize("space", ["features", "pixels"])
def test_the_engine_s_steps(tmp_path: Path, experts: Experts, space: str) -> None:
    """Three steps of the engine, beside the published step and plain gradient descent."""
    generator, std = Generator().manual_seed(5), torch.full((3, 1, 1), 0.5)
    rows = torch.randn(N, IMAGE_WIDTH, generator=generator)
    pixels = torch.randint(64, 192, (N, 3, 4, 4), generator=generator, dtype=torch.uint8)
    start = SyntheticSet(
        rows,
        torch.randn(N, TEXT_WIDTH, generator=generator),
        Similarity.start("low-rank", N, rank=3, alpha=3.0, generator=generator),
        0.2,
        0.2,
        "wbce",
        torch.arange(N),
        torch.arange(N),
        pixels,
    )
    free = torch.tensor([[-1e6], [1e6]]).expand(2, IMAGE_WIDTH)  # no range that features are pulled back to
    spread, text_spread = Spread(torch.ones(2, IMAGE_WIDTH), free), torch.ones(2, TEXT_WIDTH)
    image = LearnedPixels(encode_images, std, 5, spread) if space == "pixels" else LearnedFeatures(spread)
    run = Distillation(start, experts, SETTINGS, image, text_spread=text_spread, temperature=TAU)
    rates = {"image": 0.01, "text": 0.02, "diagonal": 0.005, "left": 0.005, "right": 0.005, "rates": 0.001}
    theirs = published_loop.Variables(
        image=pixels.float() / 255 / std if space == "pixels" else rows,
        text=start.text_features,
        **start.similarity.factors,
        rates=torch.tensor([0.2, 0.2]),
    )
    for expert in range(experts.count):
        snapshots = [tuple(head.flat() for head in experts.snapshot(expert, epoch)) for epoch in range(4)]
        published_loop.write_trajectory(tmp_path / f"{expert}.pt", snapshots)  # type: ignore[arg-type]
    for step in range(3):
        draws = draw_step(SETTINGS, step, experts.count, (spread.moments, text_spread))
        plan = published_loop.Plan(
            draws.start_epoch,
            draws.start_epoch + SETTINGS.target_epochs,
            draws.plan.minibatches,
            draws.plan.permutations,
            draws.plan.ratios,
        )
        loss, gradients = published_loop.distillation_step(
            theirs,
            tmp_path / f"{draws.expert}.pt",
            plan,
            (lambda image: encode_images(image * std)) if space == "pixels" else (lambda features: features),
            width=WIDTH,
            alpha=3.0,
            temperature=TAU,
        )
        moved = {name: value - rates[name] * getattr(gradients, name) for name, value in vars(theirs).items()}
        theirs = published_loop.Variables(**moved)
        assert run.step()["loss"] == pytest.approx(loss, rel=SINGLE)
    for name, value in run.variables.items():
        agree(value.detach(), getattr(theirs, name.removeprefix("similarity.")), SINGLE, name)


def test_students() -> None:
    generator = Generator().manual_seed(6)
    images, texts = torch.randn(N, IMAGE_WIDTH, generator=generator), torch.randn(N, TEXT_WIDTH, generator=generator)
    similarity = Similarity("full", N, {"entries": torch.eye(N) + 0.05 * torch.randn(N, N, generator=generator)})
    recipe = StudentsConfig(epochs=6, batch_size=8, rate="published")
    pairs = SyntheticSet(images, texts, similarity, 0.03, 0.05, "wbce", torch.arange(N), torch.arange(N))
    heads = train_students(pairs, recipe, width=WIDTH, temperature=TAU, seeds=[0, 4])
    for place, seed in enumerate([0, 4]):
        start = initial_heads(IMAGE_WIDTH, TEXT_WIDTH, WIDTH, FIRST_SEED + seed)
        theirs = train_student(
            (start[0].flat(), start[1].flat()),
            images,
            texts,
            similarity.matrix(),
            (0.03, 0.05),
            lambda rows: rows,
            width=WIDTH,
            temperature=TAU,
            epochs=recipe.epochs,
            batch_size=recipe.batch_size,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            dropout=recipe.dropout,
            seed=FIRST_SEED + seed,
        )
        for side in range(2):
            agree(heads[side].flat()[place], theirs[side], SINGLE)


def test_recalls() -> None:
    scores = torch.randn(20, 100, generator=Generator().manual_seed(8))
    owners = torch.arange(20).repeat_interleave(5)
    scores[owners, torch.arange(100)] += 1.5
    theirs, ours = recalls(scores.numpy(), owners.numpy()), matrix_scores(scores, owners)
    assert {name: ours[name] for name in theirs} == pytest.approx(theirs)
    assert 20 < ours["r_mean"] < 95
