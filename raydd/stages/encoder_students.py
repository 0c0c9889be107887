"""Students of protocol A, trained by the configured recipe and scored on a split."""

from collections.abc import Iterator, Sequence

from jaxtyping import UInt8
from torch import Tensor

from raydd.data import ViewsOf, open_views
from raydd.data.augment import transform_of
from raydd.data.encoding import batches_of, workers_for
from raydd.distill.encoder_student import Networks
from raydd.distill.synthetic import SyntheticSet
from raydd.evaluate.encoder_students import score_networks, train_student
from raydd.evaluate.scores import Scores
from raydd.stages.encoder_bench import EncoderBench
from raydd.stages.students import CHECKS


def score_students(bench: EncoderBench, pairs: SyntheticSet, split: str, seeds: Sequence[int]) -> Scores:
    """Train one student a seed on the pairs and score it on val or test.

    Under `evaluate.choice` best-on-split each student is scored at six checks and its best r_mean counts, as published.

    Raises:
        NonFiniteError: a student diverged.
    """
    config, scored = bench.config, []
    best_of_checks, every = config.evaluate.choice == "best-on-split", max(1, config.students.epochs // CHECKS)
    for number, seed in enumerate(seeds):
        checks: list[dict[str, float]] = []

        def check(epoch: int, networks: Networks, checks: list[dict[str, float]] = checks) -> None:
            if best_of_checks and epoch % every == 0:
                checks.append(score(bench, networks, split))

        networks = train_student(
            bench.trained,
            pairs,
            config.students,
            temperature=config.experts.temperature,
            seed=seed,
            device=bench.device,
            on_epoch=check,
        )
        scored.append(max(checks or [score(bench, networks, split)], key=lambda scores: scores["r_mean"]))
        bench.progress(f"students scored on {split}", number + 1, len(seeds))
    return Scores(tuple(scored))


def score(bench: EncoderBench, networks: Networks, split: str) -> dict[str, float]:
    """Retrieval scores of one student or expert on val or test, whose images its own encoder sees."""
    texts = {"val": bench.captions.val, "test": bench.captions.test}[split]
    return score_networks(
        bench.trained, networks, _images(bench, split), texts.texts.whole(), texts.image_of_text, device=bench.device
    )


def _images(bench: EncoderBench, split: str) -> Iterator[UInt8[Tensor, "_ 3 S S"]]:
    """The images of a split, plainly resized, batch by batch."""
    images = {"val": bench.data.val, "test": bench.data.test}[split].images
    views = ViewsOf(images, transform_of("none", bench.encoder.size), 1, 0)
    workers = 0 if bench.device == "cpu" else workers_for(bench.device)
    for pixels in open_views(views, batches_of(range(len(images)), bench.trained.at_once), workers=workers):
        yield pixels[:, 0]
