"""The stage evaluate: retrieval scores of students of a synthetic set, of selected pairs, and of all real pairs."""

from collections.abc import Callable, Sequence
from dataclasses import asdict

from raydd.config import Config
from raydd.distill.synthetic import SyntheticSet
from raydd.evaluate.scores import Scores
from raydd.evaluate.students import real_pairs, score_heads, synthetic_pairs
from raydd.place import device_of
from raydd.progress import Progress, silent
from raydd.stages import encoder_distilling, encoder_experts, encoder_rows, encoder_students
from raydd.stages.collapsing import collapse_of
from raydd.stages.distilling import final_synthetic, synthetic_record
from raydd.stages.encoder_bench import open_bench
from raydd.stages.experts import open_experts, trajectories_of
from raydd.stages.features import features as make_features
from raydd.stages.rates import best_multiple
from raydd.stages.rows import Row, row_of_experts
from raydd.stages.selecting import select
from raydd.stages.students import score_students
from raydd.store import Record, Store

VERSION = 2  # 2: rates of real pairs may be any multiple
SCORES = "scores.json"
RATE = 0.4  # a multiple of it, chosen on val, is the rate of students of real pairs, who bring no learned one


def evaluate(config: Config, store: Store, synthetic: SyntheticSet, *, split: str, seeds: int) -> Scores:
    """Train students on a synthetic set that need not be in the store, one a seed, and score them on a split.

    Raises:
        NonFiniteError: the students diverged.
    """
    if config.distill.protocol == "encoder":
        return encoder_students.score_students(open_bench(config, store), synthetic, split, range(seeds))
    return score_students(config, make_features(config, store), synthetic_pairs(synthetic), split, range(seeds))


def synthetic_scores(config: Config, store: Store, progress: Progress = silent) -> Scores:
    """Scores of the synthetic set that these settings make, on `evaluate.split`."""
    synthetic = final_synthetic(config, store, progress)

    def score() -> Row:
        split, seeds = config.evaluate.split, config.evaluate.seeds
        return evaluate(config, store, synthetic, split=split, seeds=seeds), {}

    return _kept(scores_record(config, store, "synthetic"), score)


def selected_scores(config: Config, store: Store, selection: str, progress: Progress = silent) -> Scores:
    """Scores of students of as many selected real pairs, each seed with its own, at the rate that is best on val.

    Args:
        config: all settings; `distill.pairs` says how many.
        store: where the choices and the scores are kept.
        selection: a name of `raydd.distill.selections.SELECTIONS`.
        progress: told about the warm-up and the students.
    """
    if config.distill.protocol == "encoder":
        return _kept(scores_record(config, store, selection), lambda: encoder_rows.selected(config, store, progress))
    cached = make_features(config, store, progress)

    def on(split: str, rate: float, seeds: Sequence[int]) -> Scores:
        scored: list[dict[str, float]] = []
        for seed in seeds:
            captions = select(config, store, selection, pairs=config.distill.pairs, seed=seed, progress=progress)
            scored += score_students(config, cached, real_pairs(cached.train, captions, rate), split, [seed]).seeds
            progress(f"students of {selection} pairs", len(scored), len(seeds))
        return Scores(tuple(scored))

    def score() -> Row:
        rate = RATE * best_multiple(lambda multiple: on("val", multiple * RATE, [0]).mean["r_mean"])
        return on(config.evaluate.split, rate, range(config.evaluate.seeds)), {"rate": rate, "chosen_on": "val"}

    return _kept(scores_record(config, store, selection), score)


def full_scores(config: Config, store: Store, progress: Progress = silent) -> Scores:
    """Scores of students of all real pairs: expert trajectories, one a seed, to the epoch that is best on val.

    Under `evaluate.choice` best-on-split it is best on the scored split, as published. It is chosen by the first expert
    alone, among all up to `experts.epochs`. The students are experts of seeds that distillation reads too, so what the
    store has of them is not trained again.
    """
    if config.distill.protocol == "encoder":
        return _kept(scores_record(config, store, "full"), lambda: encoder_rows.full(config, store, progress))
    cached, device = make_features(config, store, progress), device_of(config.place)
    splits = {"val": cached.val, "test": cached.test}

    def score() -> Row:
        return row_of_experts(
            config,
            lambda count, epochs: trajectories_of(config, store, progress, count=count, epochs=epochs),
            lambda heads, split: score_heads(*heads, splits[split], device=device)[0],
        )

    return _kept(scores_record(config, store, "full"), score)


def collapse(config: Config, store: Store, synthetic: SyntheticSet) -> dict[str, float]:
    """Collapse measures of a synthetic set, in the space of the first expert's last snapshot."""
    if config.distill.protocol == "encoder":
        bench = open_bench(config, store)
        return encoder_distilling.collapse_of(bench, encoder_experts.open_experts(bench), synthetic)
    cached = make_features(config, store)
    return collapse_of(open_experts(config, store, cached), config.distill, synthetic)


def scores_record(config: Config, store: Store, row: str) -> Record:
    """The place of a row's scores: `synthetic`, `full`, or the name of a selection."""
    if config.distill.protocol == "encoder":
        bench = open_bench(config, store)
        source, experts = bench.captions.fingerprint, encoder_experts.experts_record(bench).fingerprint
        trained = {"protocol": "encoder", "image": bench.identity}
    else:
        cached, trained = make_features(config, store), {}
        source, experts = cached.fingerprint, open_experts(config, store, cached).record.fingerprint
    if row == "synthetic":
        upstream, settings = {"synthetic": synthetic_record(config, store).fingerprint}, {}
    elif row == "full":
        upstream, settings = (
            {"experts": experts},
            {"epochs": config.experts.last_epoch, "first_seed": config.experts.seed},
        )
    else:
        upstream, settings = {"features": source}, {"pairs": config.distill.pairs}
        if row != "random":
            upstream["experts"] = experts
    made_with = {
        "row": row,
        "split": config.evaluate.split,
        "seeds": config.evaluate.seeds,
        "students": asdict(config.students),
        "temperature": config.experts.temperature,
        "width": config.experts.width,
        **settings,
        **trained,
    }
    if config.evaluate.choice != "last":
        made_with["choice"] = config.evaluate.choice
    return Record.of(store, "scores", made_with, upstream, version=VERSION)


def _kept(record: Record, score: Callable[[], Row]) -> Scores:
    """The scores that a record has, or those that `score` makes, kept with what made them."""
    if not record.complete:
        scores, facts = score()
        record.write_json(SCORES, list(scores.seeds))
        record.finish(facts=facts)
    return Scores(tuple(record.read_json(SCORES)))
