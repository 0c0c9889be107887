"""The rows beside a synthetic set under protocol A: students of random real pairs, and of all of them."""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

from raydd.config import Config
from raydd.errors import NonFiniteError
from raydd.evaluate.scores import Scores
from raydd.progress import Progress
from raydd.stages.encoder_bench import open_bench
from raydd.stages.encoder_experts import trained
from raydd.stages.encoder_students import score, score_students
from raydd.store import Store

RATES = (0.01, 0.03, 0.1, 0.3)  # of the image encoder, among which students of real pairs get theirs on val
TEXT_RATE = 0.3  # of their text head

Row = Callable[[], tuple[Scores, Mapping[str, Any]]]


def selected(config: Config, store: Store, progress: Progress) -> Row:
    """Students of as many random real pairs, each seed with its own, at the rates that are best on val."""
    bench = open_bench(config, store, progress)

    def on(split: str, rate: float, seed: int) -> tuple[dict[str, float], ...]:
        pairs = bench.real_set(seed, (rate, TEXT_RATE), "infonce")
        return score_students(bench, pairs, split, [seed]).seeds

    def row() -> tuple[Scores, Mapping[str, Any]]:
        on_val = {}
        for rate in RATES:
            with contextlib.suppress(NonFiniteError):  # a rate that diverges is not the best one
                on_val[rate] = on("val", rate, 0)[0]["r_mean"]
        rate = max(on_val or RATES, key=lambda rate: on_val.get(rate, -rate))
        scored = [scores for seed in range(config.evaluate.seeds) for scores in on(config.evaluate.split, rate, seed)]
        return Scores(tuple(scored)), {"rate": rate, "text_rate": TEXT_RATE, "chosen_on": "val"}

    return row


def full(config: Config, store: Store, progress: Progress) -> Row:
    """Experts, one a seed, after the epoch that is best for the first of them on val."""
    bench = open_bench(config, store, progress)
    chosen_on = config.evaluate.split if config.evaluate.choice == "best-on-split" else "val"

    def row() -> tuple[Scores, Mapping[str, Any]]:
        epochs, seeds = range(1, config.experts.epochs + 1), config.evaluate.seeds
        first = trained(bench, count=1, epochs=epochs)
        found = {epoch: score(bench, first.snapshot(0, epoch), chosen_on)["r_mean"] for epoch in epochs}
        best = max(found, key=lambda epoch: found[epoch])
        experts = trained(bench, count=seeds, epochs=[best])
        scored = [score(bench, experts.snapshot(seed, best), config.evaluate.split) for seed in range(seeds)]
        return Scores(tuple(scored)), {"epoch": best, "chosen_on": chosen_on}

    return row
