"""The stage evaluate: retrieval scores of students of a synthetic set, of selected pairs, and of all real pairs."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, overload

from raydd.code_version import code_version
from raydd.distill.synthetic import SyntheticSet
from raydd.errors import NonFiniteError
from raydd.evaluate.retrieval import Scores, ScoresOnTest, ScoresOnVal, by_published_choice, scores_on
from raydd.protocols import HeldOutSplit, Workbench, changed
from raydd.sets.provenance import selection_rule
from raydd.settings import flatten
from raydd.stages.distilling import final_synthetic, synthetic_record
from raydd.stages.students import best_multiple, recipe_content, score_students
from raydd.store import Record

VERSION = 3  # 2: learning rates of real pairs may be any multiple; 3: named by what matters
SCORES = "scores.json"
Row = tuple[Scores, Mapping[str, Any]]  # and what made them


def scores_of(work: Workbench[Any], row: str) -> Scores:
    """Scores of one row: `synthetic`, `full`, or the name of a selection."""
    rows = {"synthetic": synthetic_scores, "full": full_scores}
    return rows[row](work) if row in rows else selected_scores(work, row)


@overload
def synthetic_scores(work: Workbench[Any], split: Literal["val"]) -> ScoresOnVal: ...
@overload
def synthetic_scores(work: Workbench[Any], split: HeldOutSplit | None = None) -> ScoresOnVal | ScoresOnTest: ...
def synthetic_scores(work: Workbench[Any], split: HeldOutSplit | None = None) -> ScoresOnVal | ScoresOnTest:
    """Scores of the synthetic set that these settings make, on a split; None is that of `evaluate.split`."""
    work = changed(work, {"evaluate.split": split}) if split else work
    synthetic, evaluate = final_synthetic(work), work.config.evaluate

    def score() -> Row:
        return score_students(work, synthetic, split=evaluate.split, seeds=range(evaluate.seeds)), {}

    return _kept(work, "synthetic", score)


def selected_scores(work: Workbench[Any], selection: str) -> Scores:
    """Scores of students of as many selected real pairs, each seed with its own pairs.

    Real pairs bring no learned learning rate: the image side's is the multiple of `real_rates` that is best on val.

    Args:
        work: `distill.pairs` says how many pairs.
        selection: a name of `raydd.distill.selections.SELECTIONS`.
    """
    config = work.config
    work.require_enough_pairs()

    def pairs_at(multiple: float, seed: int) -> SyntheticSet:
        captions = work.select(selection, config.distill.pairs, seed)
        return work.real_set(captions, work.real_rates_at(multiple), seed=seed)

    def on_val(multiple: float) -> ScoresOnVal | None:
        try:
            return score_students(work, pairs_at(multiple, 0), split=ScoresOnVal.split, seeds=[0])
        except NonFiniteError:
            return None

    def score() -> Row:
        multiple = best_multiple(lambda multiples: [on_val(multiple) for multiple in multiples])
        scored: list[dict[str, float]] = []
        for seed in range(config.evaluate.seeds):
            pairs = pairs_at(multiple, seed)
            scored += score_students(work, pairs, split=config.evaluate.split, seeds=[seed]).seeds
            work.progress(f"students of {selection} pairs", len(scored), config.evaluate.seeds)
        made = {"learning_rates": list(work.real_rates_at(multiple)), "chosen_on": ScoresOnVal.split}
        return scores_on(config.evaluate.split, scored), made

    return _kept(work, selection, score)


def full_scores(work: Workbench[Any]) -> Scores:
    """Scores of students of all real pairs: expert trajectories, one a seed, after the epoch that is best on val.

    Under `evaluate.choice` best-on-split it is the best on the scored split, as published. It is chosen by the first
    expert alone, among all up to `experts.epochs`. The students are experts of seeds that distillation reads too, so
    what the store has of them is not trained again.
    """
    return _kept(work, "full", lambda: _best_epoch(work))


def _best_epoch(work: Workbench[Any]) -> Row:
    evaluate = work.config.evaluate
    epochs, seeds = range(1, work.config.experts.last_epoch + 1), evaluate.seeds
    first = work.experts(1, epochs)
    if evaluate.choice == "best-on-split":
        chosen_on = evaluate.split
        found = {epoch: by_published_choice(work.score(first.snapshot(0, epoch), chosen_on)) for epoch in epochs}
    else:
        chosen_on = ScoresOnVal.split
        found = {epoch: work.val_scores(first.snapshot(0, epoch)).for_choice for epoch in epochs}
    best = max(found, key=lambda epoch: found[epoch])
    experts = work.experts(seeds, [best])
    scored = [work.score(experts.snapshot(seed, best), evaluate.split).seeds[0] for seed in range(seeds)]
    return scores_on(evaluate.split, scored), {"epoch": best, "chosen_on": chosen_on}


def scores_record(work: Workbench[Any], row: str) -> Record:
    """The place of a row's scores: `synthetic`, `full`, or the name of a selection. Named by what the row reads."""
    config, evaluate = work.config, work.config.evaluate
    made_with: dict[str, Any] = {"row": row, "split": evaluate.split, "seeds": evaluate.seeds}
    if evaluate.choice != "last":
        made_with["choice"] = evaluate.choice
    if row == "full":  # students are experts
        upstream = {"experts": work.experts_record.fingerprint}
        made_with |= {"epochs": config.experts.last_epoch, "first_seed": config.experts.seed}
        return Record.of(work.store, "scores", made_with, upstream, version=VERSION)
    made_with |= {"students": recipe_content(config.students, config.distill.pairs), **work.student_content}
    if row == "synthetic":
        upstream = {"synthetic": synthetic_record(work).fingerprint}
    else:
        upstream, made_with["pairs"] = {"features": work.source}, config.distill.pairs
        if row != "random":  # which draws and trains nothing
            upstream["experts"], made_with["first_expert"] = work.experts_record.fingerprint, config.experts.seed
    return Record.of(work.store, "scores", made_with, upstream, version=VERSION)


def _kept(work: Workbench[Any], row: str, score: Callable[[], Row]) -> ScoresOnVal | ScoresOnTest:
    """A row's scores as the store has them, or those that `score` makes, kept with what made them."""
    record = scores_record(work, row)
    if not record.complete:
        scores, facts = score()
        record.write_json(SCORES, list(scores.seeds))
        record.finish(facts=facts)
    return scores_on(work.config.evaluate.split, record.read_json(SCORES))


def run(work: Workbench[Any]) -> dict[str, Any]:
    """Make a synthetic set and score it beside its baselines.

    Returns:
        `synthetic` and each of `evaluate.baselines` with every metric's mean, standard deviation and seeds in percent;
        and under `made` what made them: data, encoders, settings, selection rule, code, and the synthetic set's record.
    """
    config = work.config
    work.require_enough_pairs()
    rows = {name: scores_of(work, name).as_json() for name in ("synthetic", *config.evaluate.baselines)}
    data = work.data
    return {
        **rows,
        "made": {
            "data": {"name": data.name, "fingerprint": data.fingerprint, "notes": list(data.notes)},
            "encoders": {"image": config.encoders.image, "text": config.encoders.text},
            "protocol": work.trains,
            "split": config.evaluate.split,
            "selection": selection_rule(config),
            "synthetic_record": synthetic_record(work).folder,
            "store": work.store.root,
            "raydd": code_version(),
            "settings": {name: value for name, value in flatten(config).items() if not name.startswith("place.")},
        },
    }
