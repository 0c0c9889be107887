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
from raydd.sets.read import OpenedSet
from raydd.settings import flatten
from raydd.stages.distilling import final_synthetic, synthetic_record
from raydd.stages.students import (
    MIN_MULTIPLE,
    best_multiple,
    choice_content,
    recipe_content,
    score_students,
    student_hits,
)
from raydd.store import Record

VERSION = 3  # 2: learning rates of real pairs may be any multiple; 3: named by what matters
SCORES, HITS_FILE = "scores.json", "hits.safetensors"
Row = tuple[Sequence[Tensor], Mapping[str, Any]]  # the hits of each student, and facts on how they were made


def scores_of(work: Workbench[Any], row: str) -> Scores:
    """Return the scores of one row: `synthetic`, `full`, or the name of a selection."""
    scorers = {"synthetic": synthetic_scores, "full": full_scores}
    return scorers[row](work) if row in scorers else selected_scores(work, row)


@overload
def synthetic_scores(work: Workbench[Any], split: Literal["val"]) -> ScoresOnVal: ...
@overload
def synthetic_scores(work: Workbench[Any], split: HeldOutSplit | None = None) -> ScoresOnVal | ScoresOnTest: ...
def synthetic_scores(work: Workbench[Any], split: HeldOutSplit | None = None) -> ScoresOnVal | ScoresOnTest:
    """Return the scores of the synthetic set of these settings on a split; None is `evaluate.split`."""
    final_synthetic(work)  # before the split changes, since a set keeps the settings of its run
    work = changed(work, {"evaluate.split": split}) if split else work
    return _cached_scores(work, scores_record(work, "synthetic"), lambda: _synthetic_hits(work, final_synthetic(work)))


def scores_of_set(work: Workbench[Any], opened: OpenedSet) -> ScoresOnVal | ScoresOnTest:
    """Return the scores of a finished set on `evaluate.split`, which its run may have stored.

    Args:
        work: the workbench, with the data and encoders that made the set; its other settings may differ.
        opened: the set.
    """
    record = scores_record(work, "synthetic", opened)
    return _cached_scores(work, record, lambda: _synthetic_hits(work, opened.synthetic))


def _synthetic_hits(work: Workbench[Any], pairs: SyntheticSet) -> Row:
    evaluate = work.config.evaluate
    work.progress("students of the synthetic pairs", 0, evaluate.seeds)
    hits = student_hits(work, pairs, split=evaluate.split, seeds=range(evaluate.seeds))
    work.progress("students of the synthetic pairs", evaluate.seeds, evaluate.seeds)
    return hits, {}


def selected_scores(work: Workbench[Any], selection: str) -> Scores:
    """Return the scores of students trained on selected real pairs; each seed has its own pairs.

    Real pairs have no learned learning rates, so the multiple that is best on val is used (`Workbench.real_rates_at`).

    Args:
        work: the workbench; its `distill.pairs` is the number of pairs.
        selection: a name of `raydd.distill.selections.SELECTIONS`.
    """
    work.require_enough_pairs()
    seeds = work.config.evaluate.seeds
    return _cached_scores(
        work,
        scores_record(work, selection),
        lambda: _selected_hits(work, selection, 0, [(seed, seed) for seed in range(seeds)]),
    )


def _selected_hits(work: Workbench[Any], selection: str, first_seed: int, students: Sequence[tuple[int, int]]) -> Row:
    """Train students on selected pairs, with the learning rates that are best on val for a student of one choice.

    Where another student diverges at these learning rates, all students are trained at half of them, and so on.

    Args:
        work: the workbench; its `distill.pairs` is the number of pairs.
        selection: name of the selection.
        first_seed: seed of the choice of pairs for which the learning rates are chosen.
        students: for each student, the seed of its pairs and its own seed.

    Raises:
        NonFiniteError: a student diverges at every learning rate.
    """
    config = work.config

    def pairs_at(multiple: float, seed: int) -> SyntheticSet:
        captions = work.select(selection, config.distill.pairs, seed)
        return work.real_set(captions, work.real_rates_at(multiple), seed=seed)

    def val_scores_at(multiple: float) -> ScoresOnVal | None:
        try:
            return score_students(work, pairs_at(multiple, first_seed), split=ScoresOnVal.split, seeds=[0])
        except NonFiniteError:
            return None

    def hits_at(multiple: float) -> list[Tensor]:
        hits: list[Tensor] = []
        for pairs_seed, seed in students:
            hits += student_hits(work, pairs_at(multiple, pairs_seed), split=config.evaluate.split, seeds=[seed])
            work.progress(f"students of {selection} pairs", len(hits), len(students))
        return hits

    try:
        multiple, _ = best_multiple(lambda multiples: [val_scores_at(multiple) for multiple in multiples])
        while True:
            try:
                hits = hits_at(multiple)
                break
            except NonFiniteError:
                if multiple <= MIN_MULTIPLE:
                    raise
                multiple /= 2
    except NonFiniteError as error:
        rates = " and ".join(f"{rate:.3g}" for rate in work.real_rates_at(MIN_MULTIPLE))
        raise NonFiniteError(
            f"Students of {selection} pairs diverge even at the learning rates {rates}. Lower students.weight_decay or "
            "students.momentum, or raise experts.temperature."
        ) from error
    return hits, {"learning_rates": list(work.real_rates_at(multiple)), "chosen_on": ScoresOnVal.split}


def full_scores(work: Workbench[Any]) -> Scores:
    """Return the scores of full data: students of all real pairs, which are experts, after their best epoch on val.

    Under `evaluate.choice` best-on-split, the epoch is the best one on the scored split, as published. The epoch is
    chosen by the first expert alone, among all epochs up to `experts.epochs`. There is one expert per seed.
    Distillation reads the same experts, so snapshots that are in the store are not trained again.
    """
    return _cached_scores(work, scores_record(work, "full"), lambda: _best_epoch_hits(work))


def _best_epoch_hits(work: Workbench[Any]) -> Row:
    evaluate = work.config.evaluate
    epochs, seeds = range(1, work.config.experts.last_epoch + 1), evaluate.seeds
    first_expert = work.experts(1, epochs)

    def expert_after(epoch: int) -> Any:
        return work.finished(first_expert.snapshot(0, epoch))

    if evaluate.choice == "best-on-split":
        chosen_on = evaluate.split
        r_mean_of_epoch = {epoch: by_published_choice(work.score(expert_after(epoch), chosen_on)) for epoch in epochs}
    else:
        chosen_on = ScoresOnVal.split
        r_mean_of_epoch = {epoch: work.val_scores(expert_after(epoch)).for_choice for epoch in epochs}
    best_epoch = max(r_mean_of_epoch, key=lambda epoch: r_mean_of_epoch[epoch])
    experts = work.experts(seeds, [best_epoch])
    hits = [work.hits(work.finished(experts.snapshot(seed, best_epoch)), evaluate.split)[0] for seed in range(seeds)]
    return hits, {"epoch": best_epoch, "chosen_on": chosen_on}


def set_of(work: Workbench[Any], number: int) -> Workbench[Any]:
    """Return the workbench of one set of a row. Each set has its own start pairs, draws and order of experts.

    Set 0 is the set of the unchanged settings, so a run and a row share it.
    """
    return changed(work, {"distill.seed": work.config.distill.seed + number}) if number else work


def set_hits(work: Workbench[Any], row: str, number: int) -> Int[Tensor, "S I 7"]:
    """Return the hits of each student of one set on `evaluate.split`, see `raydd.evaluate.retrieval.HITS`.

    The scores of a distilled set and of full data are stored too, as a run stores them.

    Args:
        work: the workbench of the row, that is of its set 0.
        row: `synthetic`, `full`, or the name of a selection. A set of a selection is the choice of one seed.
        number: number of the set; full data has one set.
    """
    record = hits_record(work, row, number)
    if not record.complete:
        hits, facts = _row_hits(work, row, number)
        if row not in SELECTIONS:  # in a run, a selection has one student for each choice of pairs
            _store_scores(scores_record(set_of(work, number), row), hits, facts)
        record.write_tensors(HITS_FILE, {"hits": torch.stack(list(hits)).to(torch.int32)})
        record.finish(facts=dict(facts))
    return record.read_tensors(HITS_FILE)["hits"]


def hits_record(work: Workbench[Any], row: str, number: int) -> Record:
    """Return the record of the hits of one set of a row."""
    settings, upstream = _record_content(work if row in SELECTIONS else set_of(work, number), row)
    return Record.of(
        work.store, "hits", {**settings, "set": number} if row in SELECTIONS else settings, upstream, version=VERSION
    )


def _row_hits(work: Workbench[Any], row: str, number: int) -> Row:
    if row == "synthetic":
        work = set_of(work, number)
        return _synthetic_hits(work, final_synthetic(work))
    if row == "full":
        return _best_epoch_hits(work)
    work.require_enough_pairs()
    return _selected_hits(work, row, number, [(number, seed) for seed in range(work.config.evaluate.seeds)])


def scores_record(work: Workbench[Any], row: str, opened: OpenedSet | None = None) -> Record:
    """Return the record of the scores of a row (`synthetic`, `full`, or a selection), named by what the row reads.

    `opened` is a finished set to score as `synthetic`, instead of the one that the settings make.
    """
    settings, upstream = _record_content(work, row, opened)
    return Record.of(work.store, "scores", settings, upstream, version=VERSION)


def _record_content(
    work: Workbench[Any], row: str, opened: OpenedSet | None = None
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what decides the students of a row: settings, and the records that the row is made from."""
    config, evaluate = work.config, work.config.evaluate
    pairs = len(opened.synthetic) if opened else config.distill.pairs
    settings: dict[str, Any] = {"row": row, "split": evaluate.split, "seeds": evaluate.seeds, **choice_content(config)}
    if row == "full":  # its students are experts, which are checked after every epoch
        settings.pop("checks", None)
        upstream = {"experts": work.experts_record.fingerprint}
        settings |= {"epochs": config.experts.last_epoch, "first_seed": config.experts.seed}
        return settings, upstream
    settings |= {"students": recipe_content(config.students, pairs), **work.student_content}
    if row == "synthetic":
        upstream = {"synthetic": opened.fingerprint if opened else synthetic_record(work).fingerprint}
    else:
        selection_settings, upstream = work.selection_content(row)
        settings |= {"pairs": pairs, **selection_settings}
    return settings, upstream


def _cached_scores(work: Workbench[Any], record: Record, score: Callable[[], Row]) -> ScoresOnVal | ScoresOnTest:
    """Return a row's scores from their record, or compute them from the hits that `score` returns and store them."""
    if not record.complete:
        _store_scores(record, *score())
    return scores_on(work.config.evaluate.split, record.read_json(SCORES))


def _store_scores(record: Record, hits: Sequence[Tensor], facts: Mapping[str, Any]) -> None:
    """Store a row's scores if they are missing."""
    if not record.complete:
        record.write_json(SCORES, [scores_of_hits(hits_of_student) for hits_of_student in hits])
        record.finish(facts=dict(facts))


def run(work: Workbench[Any]) -> dict[str, Any]:
    """Make a synthetic set, and score it and its baselines.

    Returns:
        `synthetic` and each of `evaluate.baselines`, with mean, standard deviation and seeds of every metric in
        percent. `made` says what made them: data, encoders, settings, selection rule, code, and the set's record.
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
