"""The rows beside a synthetic set under protocol A: students of random real pairs, and of all of them."""

from raydd.config import Config
from raydd.evaluate.scores import Scores
from raydd.progress import Progress
from raydd.stages.encoder_bench import open_bench
from raydd.stages.encoder_experts import trained
from raydd.stages.encoder_students import score, score_students
from raydd.stages.rates import best_multiple
from raydd.stages.rows import Row, row_of_experts
from raydd.store import Store

RATE = 0.03  # a multiple of it, chosen on val, is the rate of the image encoder for students of real pairs
TEXT_RATE = 0.3  # of their text head


def selected(config: Config, store: Store, progress: Progress) -> Row:
    """Students of as many random real pairs, each seed with its own, at the rates that are best on val."""
    bench = open_bench(config, store, progress)

    def on(split: str, rate: float, seed: int) -> tuple[dict[str, float], ...]:
        pairs = bench.real_set(seed, (rate, TEXT_RATE), "infonce")
        return score_students(bench, pairs, split, [seed]).seeds

    rate = RATE * best_multiple(lambda multiple: on("val", multiple * RATE, 0)[0]["r_mean"])
    scored = [scores for seed in range(config.evaluate.seeds) for scores in on(config.evaluate.split, rate, seed)]
    return Scores(tuple(scored)), {"rate": rate, "text_rate": TEXT_RATE, "chosen_on": "val"}


def full(config: Config, store: Store, progress: Progress) -> Row:
    """Experts, one a seed, after the epoch that is best for the first of them on val."""
    bench = open_bench(config, store, progress)
    return row_of_experts(
        config,
        lambda count, epochs: trained(bench, count=count, epochs=epochs),
        lambda networks, split: score(bench, networks, split),
    )
