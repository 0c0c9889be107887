"""The names of scores and selections: a setting that a row does not read does not rename it; one that is read does."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from stage_settings import TINY

import raydd
from raydd import stages
from raydd.config import Config, StudentsConfig
from raydd.evaluate.retrieval import METRICS
from raydd.progress import silent
from raydd.protocols import HeadsWorkbench, Opened
from raydd.protocols.selecting import selection_record
from raydd.settings import load, with_settings
from raydd.stages.students import checked_epochs, choice_content, fit_rates, recipe_content
from raydd.store import Store

ENCODER = {"distill.protocol": "encoder", "distill.images": "pixels"}
STUDENTS = {f"students.{name}": value for name, value in {"epochs": 9, "momentum": 0.5, "dropout": 0.5}.items()}


@pytest.fixture
def config(tiny_data: Path) -> Config:
    return load(settings={**TINY, "data.root": str(tiny_data)})


def names(config: Config, store: Store, row: str, settings: dict[str, Any]) -> set[str]:
    """The names of a row's scores under these settings, each changed alone, and under none."""
    changed = [{}, *({name: value} for name, value in settings.items())]
    return {stages.scores_record(raydd.open(with_settings(config, one), store), row).fingerprint for one in changed}


@pytest.mark.parametrize("protocol", [{}, ENCODER], ids=["heads", "encoder"])
def test_scores_of_all_real_pairs_are_those_of_experts(config: Config, store: Store, protocol: dict[str, Any]) -> None:
    config = with_settings(config, protocol)
    unread = {**STUDENTS, "distill.pairs": 5, "distill.image_lr": 0.7, "experts.count": 1}
    assert len(names(config, store, "full", unread)) == 1
    read = {"experts.epochs": 2, "experts.seed": 3, "experts.lr": 0.3, "evaluate.split": "val", "evaluate.seeds": 3}
    assert len(names(config, store, "full", read)) == 1 + len(read)


@pytest.mark.parametrize("protocol", [{}, ENCODER], ids=["heads", "encoder"])
def test_scores_of_random_pairs_are_those_of_students(config: Config, store: Store, protocol: dict[str, Any]) -> None:
    config = with_settings(config, protocol)
    unread = {"experts.lr": 0.3, "experts.seed": 3, "experts.count": 1, "distill.image_lr": 0.7, "distill.rank": 1}
    assert len(names(config, store, "random", unread)) == 1
    read = {**STUDENTS, "distill.pairs": 5, "evaluate.split": "val", "experts.temperature": 0.5}
    assert len(names(config, store, "random", read)) == 1 + len(read)


def test_scores_of_warmed_up_selections_are_those_of_their_experts(config: Config, store: Store) -> None:
    read = {"experts.lr": 0.3, "experts.seed": 3, "distill.pairs": 5}
    assert len(names(config, store, "herding", read)) == 1 + len(read)
    assert len(names(config, store, "herding", {"experts.count": 1, "distill.image_lr": 0.7})) == 1


def test_a_random_draw_has_no_experts_in_its_name(config: Config, store: Store) -> None:
    other = with_settings(config, {"experts.lr": 0.3, "experts.seed": 3})
    for name, same in (("random", True), ("herding", False)):
        one, two = (
            selection_record(HeadsWorkbench(each, store, silent, Opened()), name, 4, 0).fingerprint
            for each in (config, other)
        )
        assert (one == two) == same, name


@pytest.mark.parametrize(("start", "named"), [("random", False), ("herding", True)])
def test_a_set_without_experts_is_named_by_what_warms_its_start_up(
    config: Config, store: Store, start: str, named: bool
) -> None:
    config = with_settings(
        config, {"distill.objective": "covariance", "distill.images": "features", "distill.start": start}
    )
    for other in ({"experts.lr": 0.3}, {"experts.seed": 3}):
        one, two = (
            stages.synthetic_record(raydd.open(each, store)).fingerprint
            for each in (config, with_settings(config, other))
        )
        assert (one != two) == named, other


def test_checks_are_as_many_as_asked_for_and_in_the_names_of_what_they_choose() -> None:
    def of(checks: int, epochs: int, choice: str = "best-on-split") -> Config:
        settings = {"evaluate.checks": checks, "students.epochs": epochs, "evaluate.choice": choice}
        return with_settings(Config(), settings)

    assert checked_epochs(of(6, 100)) == [0, 20, 40, 60, 80, 100]  # as published
    assert checked_epochs(of(11, 50))[-2:] == [45, 50]
    for checks in (2, 4, 8, 60):
        found = checked_epochs(of(checks, 100))
        assert (len(found), found[0], found[-1]) == (checks, 0, 100)
    assert choice_content(of(8, 100, "last")) == {}
    assert choice_content(of(6, 100)) == {"choice": "best-on-split"}
    assert choice_content(of(8, 100)) != choice_content(of(9, 100))


def test_a_recipe_is_named_by_what_it_reads_and_by_nothing_that_is_neutral() -> None:
    def content(pairs: int = 99, **changes: Any) -> dict[str, Any]:
        return recipe_content(replace(StudentsConfig(weight_decay=5e-4), **changes), pairs)

    assert content() == content(batch_size=99) == {}
    assert content(batch_size=98) == {"batch_size": 98}
    assert content(500, batch_size=128) == {"batch_size": 128}
    assert content(500) == {}  # one minibatch an epoch, so weight decay acts as often as on fewer pairs
    assert content(weight_decay=5e-3) == {"weight_decay": 5e-3}
    assert content(momentum=0.0, rate="published") == {"momentum": 0.0}
    assert content(rate="published", epochs=3) == {"rate": "published", "epochs": 3}


def test_learning_rates_are_fitted_on_the_last_student_however_scores_are_chosen(
    config: Config, store: Store, tmp_path: Path
) -> None:
    settings = {"distill.images": "features", "students.epochs": 10}
    chosen = {**settings, "evaluate.choice": "best-on-split"}
    work = raydd.open(with_settings(config, settings), store)
    other = raydd.open(with_settings(config, chosen), Store(tmp_path / "other"))
    made, again = stages.final_synthetic(work), stages.final_synthetic(other)
    assert stages.synthetic_record(work).fingerprint == stages.synthetic_record(other).fingerprint
    assert (made.rate_image, made.rate_text) == (again.rate_image, again.rate_text)
    scored, best = (stages.synthetic_scores(one).mean for one in (work, other))
    assert set(scored) == set(best) == set(METRICS)
    assert best["r_mean"] >= scored["r_mean"]


def test_a_fit_scores_the_last_epoch_whatever_is_chosen(
    config: Config, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = raydd.open(with_settings(config, {"evaluate.choice": "best-on-split", "students.epochs": 10}), store)
    pairs = work.real_set(work.select("random", 6, 0), (0.2, 0.2))
    by_epoch: list[float] = []
    for students in work.train_students(
        pairs, [0], lambda _, them: by_epoch.append(work.val_scores(them()).for_choice)
    ):
        last = work.val_scores(students).for_choice
    assert max(by_epoch) > last  # else this shows nothing
    scored: list[float] = []
    score = type(work).val_scores

    def noting(*arguments: Any) -> Any:
        found = score(*arguments)
        scored.extend(student["r_mean"] for student in found.seeds)
        return found

    monkeypatch.setattr(type(work), "val_scores", noting)
    fit_rates(work, pairs, near=1.0)
    assert scored[0] == last  # of the learning rates as they are; one score a student
    assert len(scored) <= 12
