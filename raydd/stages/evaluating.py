"""The stage evaluate: retrieval scores of students of a synthetic set, of selected pairs, and of all real pairs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, overload

import torch
from jaxtyping import Int
from torch import Tensor

from raydd.code_version import code_version
from raydd.distill.selections import SELECTIONS
from raydd.distill.synthetic import SyntheticSet
from raydd.errors import NonFiniteError
from raydd.evaluate.retrieval import Scores, ScoresOnTest, ScoresOnVal, by_published_choice, scores_of_hits, scores_on
from raydd.protocols import HeldOutSplit, Workbench, changed
from raydd.sets.provenance import selection_rule
from raydd.settings import flatten
from raydd.stages.distilling import final_synthetic, synthetic_record
from raydd.stages.students import best_multiple, choice_content, recipe_content, score_students, student_hits
from raydd.store import Record

VERSION = 3  # 2: learning rates of real pairs may be any multiple; 3: named by what matters
SCORES, HITS_FILE = "scores.json", "hits.safetensors"
Row = tuple[Sequence[Tensor], Mapping[str, Any]]  # the hits of each student, and what made them


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
    final_synthetic(work)
    return _kept(work, "synthetic", lambda: _synthetic(work))


def _synthetic(work: Workbench[Any]) -> Row:
    evaluate, pairs = work.config.evaluate, final_synthetic(work)
    work.progress("students of the synthetic pairs", 0, evaluate.seeds)
    hits = student_hits(work, pairs, split=evaluate.split, seeds=range(evaluate.seeds))
    work.progress("students of the synthetic pairs", evaluate.seeds, evaluate.seeds)
    return hits, {}


def selected_scores(work: Workbench[Any], selection: str) -> Scores:
    """Scores of students of as many selected real pairs, each seed with its own pairs.

    Real pairs bring no learned learning rate: the image side's is the multiple of `real_rates` that is best on val.

    Args:
        work: `distill.pairs` says how many pairs.
        selection: a name of `raydd.distill.selections.SELECTIONS`.
    """
    work.require_enough_pairs()
    seeds = work.config.evaluate.seeds
    return _kept(work, selection, lambda: _selected(work, selection, 0, [(seed, seed) for seed in range(seeds)]))


def _selected(work: Workbench[Any], selection: str, first: int, students: Sequence[tuple[int, int]]) -> Row:
    """Students of selected pairs, at the learning rates that are best on val for one of the first choice.

    Args:
        work: `distill.pairs` says how many pairs.
        selection: its name.
        first: seed of the choice of pairs that the learning rates are chosen by.
        students: of each, the seed of its pairs and its own.
    """
    config = work.config

    def pairs_at(multiple: float, seed: int) -> SyntheticSet:
        captions = work.select(selection, config.distill.pairs, seed)
        return work.real_set(captions, work.real_rates_at(multiple), seed=seed)

    def on_val(multiple: float) -> ScoresOnVal | None:
        try:
            return score_students(work, pairs_at(multiple, first), split=ScoresOnVal.split, seeds=[0])
        except NonFiniteError:
            return None

    multiple, _ = best_multiple(lambda multiples: [on_val(multiple) for multiple in multiples])
    hits: list[Tensor] = []
    for choice, seed in students:
        hits += student_hits(work, pairs_at(multiple, choice), split=config.evaluate.split, seeds=[seed])
        work.progress(f"students of {selection} pairs", len(hits), len(students))
    return hits, {"learning_rates": list(work.real_rates_at(multiple)), "chosen_on": ScoresOnVal.split}


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
    hits = [work.hits(experts.snapshot(seed, best), evaluate.split)[0] for seed in range(seeds)]
    return hits, {"epoch": best, "chosen_on": chosen_on}


def set_of(work: Workbench[Any], number: int) -> Workbench[Any]:
    """The workbench of one of a row's sets: its start pairs, its draws and its order of experts are its own.

    Set 0 is that of the settings as they are, so a run and a row share it.
    """
    return changed(work, {"distill.seed": work.config.distill.seed + number}) if number else work


def set_hits(work: Workbench[Any], row: str, number: int) -> Int[Tensor, "S I 7"]:
    """What each student of one of a row's sets finds on `evaluate.split`, see `raydd.evaluate.retrieval.HITS`.

    The scores of a distilled set and of full data are kept beside it, as a run keeps them.

    Args:
        work: of the row, whose set 0 it is.
        row: `synthetic`, `full`, or the name of a selection, of which a set is the choice of one seed.
        number: which of its sets; full data has one.
    """
    record = hits_record(work, row, number)
    if not record.complete:
        hits, facts = _students_of(work, row, number)
        if row not in SELECTIONS:  # whose sets have one student each in a run
            _keep(set_of(work, number), row, hits, facts)
        record.write_tensors(HITS_FILE, {"hits": torch.stack(list(hits)).to(torch.int32)})
        record.finish(facts=dict(facts))
    return record.read_tensors(HITS_FILE)["hits"]


def hits_record(work: Workbench[Any], row: str, number: int) -> Record:
    """The place of what the students of one of a row's sets find."""
    made_with, upstream = _named_by(work if row in SELECTIONS else set_of(work, number), row)
    return Record.of(
        work.store, "hits", {**made_with, "set": number} if row in SELECTIONS else made_with, upstream, version=VERSION
    )


def _students_of(work: Workbench[Any], row: str, number: int) -> Row:
    if row == "synthetic":
        return _synthetic(set_of(work, number))
    if row == "full":
        return _best_epoch(work)
    work.require_enough_pairs()
    return _selected(work, row, number, [(number, seed) for seed in range(work.config.evaluate.seeds)])


def scores_record(work: Workbench[Any], row: str) -> Record:
    """The place of a row's scores: `synthetic`, `full`, or the name of a selection. Named by what the row reads."""
    made_with, upstream = _named_by(work, row)
    return Record.of(work.store, "scores", made_with, upstream, version=VERSION)


def _named_by(work: Workbench[Any], row: str) -> tuple[dict[str, Any], dict[str, str]]:
    """What decides the students of a row: settings, and the records that it is made of."""
    config, evaluate = work.config, work.config.evaluate
    made_with: dict[str, Any] = {"row": row, "split": evaluate.split, "seeds": evaluate.seeds, **choice_content(config)}
    if row == "full":  # students are experts, whose every epoch is checked
        made_with.pop("checks", None)
        upstream = {"experts": work.experts_record.fingerprint}
        made_with |= {"epochs": config.experts.last_epoch, "first_seed": config.experts.seed}
        return made_with, upstream
    made_with |= {"students": recipe_content(config.students, config.distill.pairs), **work.student_content}
    if row == "synthetic":
        upstream = {"synthetic": synthetic_record(work).fingerprint}
    else:
        of_choice, upstream = work.selection_content(row)
        made_with |= {"pairs": config.distill.pairs, **of_choice}
    return made_with, upstream


def _kept(work: Workbench[Any], row: str, score: Callable[[], Row]) -> ScoresOnVal | ScoresOnTest:
    """A row's scores as the store has them, or those of the hits that `score` makes, kept with what made them."""
    record = scores_record(work, row)
    if not record.complete:
        _keep(work, row, *score())
    return scores_on(work.config.evaluate.split, record.read_json(SCORES))


def _keep(work: Workbench[Any], row: str, hits: Sequence[Tensor], facts: Mapping[str, Any]) -> None:
    """Keep a row's scores where the store lacks them."""
    record = scores_record(work, row)
    if not record.complete:
        record.write_json(SCORES, [scores_of_hits(own) for own in hits])
        record.finish(facts=dict(facts))


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
