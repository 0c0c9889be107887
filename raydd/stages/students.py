"""Students of a set of pairs, trained by the configured recipe and scored on a split: what several stages ask for."""

from collections.abc import Callable, Sequence

from raydd.config import Config
from raydd.data import HeldOut
from raydd.distill.experts import Heads
from raydd.distill.heads import Head
from raydd.distill.synthetic import SyntheticSet
from raydd.evaluate.scores import Scores
from raydd.evaluate.students import TrainingPairs, score_heads, synthetic_pairs, train_students
from raydd.place import device_of
from raydd.stages.rates import fit_rates

CHECKS = 5  # published: epochs 0, 20, 40, 60, 80 and 100 are tested


def score_students(config: Config, cached: HeldOut, pairs: TrainingPairs, split: str, seeds: Sequence[int]) -> Scores:
    """Train one student a seed on the pairs and score it on val or test.

    Under `evaluate.choice` best-on-split each student is scored at six checks and its best r_mean counts, as published.

    Raises:
        NonFiniteError: the students diverged.
    """
    device, features = device_of(config.place), {"val": cached.val, "test": cached.test}[split]
    checks: list[list[dict[str, float]]] = []

    def check(epoch: int, image: Head, text: Head) -> None:
        if config.evaluate.choice == "best-on-split" and epoch % max(1, config.students.epochs // CHECKS) == 0:
            checks.append(score_heads(image, text, features, device=device))

    image, text = trained_students(config, pairs, seeds, check)
    checks = checks or [score_heads(image, text, features, device=device)]
    return Scores(tuple(max(own, key=lambda scores: scores["r_mean"]) for own in zip(*checks, strict=True)))


def trained_students(
    config: Config,
    pairs: TrainingPairs,
    seeds: Sequence[int],
    on_epoch: Callable[[int, Head, Head], None] = lambda epoch, image, text: None,
) -> Heads:
    """One student a seed by the configured recipe: both heads with a leading axis of students.

    Raises:
        NonFiniteError: the students diverged.
    """
    return train_students(
        pairs,
        config.students,
        width=config.experts.width or pairs.image_features.shape[1],
        temperature=config.experts.temperature,
        seeds=seeds,
        device=device_of(config.place),
        on_epoch=on_epoch,
    )


def with_fitted_rates(config: Config, cached: HeldOut, synthetic: SyntheticSet) -> tuple[SyntheticSet, float]:
    """The set with that multiple of its learned rates which is best for one student on val, and the multiple.

    Raises:
        NonFiniteError: the student diverges whatever the rates.
    """
    return fit_rates(synthetic, lambda tried: val_r_mean(config, cached, tried))


def val_r_mean(config: Config, cached: HeldOut, synthetic: SyntheticSet) -> float:
    """Val r_mean in percent of one student of a set.

    Raises:
        NonFiniteError: the student diverged.
    """
    return score_students(config, cached, synthetic_pairs(synthetic), "val", [0]).mean["r_mean"]
