"""What a sweep refuses before anything starts, and how long it says that it will take."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import Trial, TrialState
from stage_settings import TINY

import raydd
from raydd.config import Config
from raydd.cost import seconds as costs
from raydd.errors import ConfigError
from raydd.protocols import changed
from raydd.settings import with_settings
from raydd.stages import final_synthetic
from raydd.store import Store
from raydd.tuning import plan as plans
from raydd.tuning import prices
from raydd.tuning import study as studies
from raydd.tuning.expected import Expected
from raydd.tuning.plan import Plan, make_plan, together
from search_spaces import Space, draw_configs, load_space, with_fixed_settings

SPEED = 1e9  # floating-point operations a second


Suggest = Callable[[Trial], Mapping[str, Any]]
Seconds = Callable[[Suggest, int, int], float]


def plan(config: Config, suggest: Suggest, store: Store, at_once: int) -> Plan:
    space = Space("mine", suggest)
    return make_plan(raydd.open(config, store), space, draw_configs(space, config), None, at_once)


@pytest.fixture
def seconds(tiny_data: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> Seconds:
    """The time that so many trials of a space are expected to take, so many at once."""
    monkeypatch.setattr(costs, "core_speed", lambda width, rows: SPEED)
    base = with_settings(Config(), {**TINY, "data.root": str(tiny_data), "sweep.pruner": "none"})
    raydd.open(base, store).prepare()

    def of(suggest: Suggest, trials: int, at_once: int) -> float:
        return plan(with_settings(base, {"sweep.trials": trials}), suggest, store, at_once).seconds.mean

    return of


def test_a_plan_before_the_features_encodes_nothing(tiny_data: Path, store: Store, monkeypatch) -> None:
    def encode(*_: object) -> None:
        raise AssertionError("encoded")

    monkeypatch.setattr("raydd.protocols.heads.encode_images", encode)
    monkeypatch.setattr("raydd.protocols.base.encode_texts", encode)
    given = {**TINY, "data.root": str(tiny_data), "distill.images": "features"}
    for gpus in (0.0, 1.0, -1.0):
        made = plan(with_settings(Config(), {**given, "sweep.gpus": gpus}), lambda trial: {}, store, 0)
        lines = dict(made.lines())
        assert lines["time"] == "known once the features are made"
        assert ("a share of a GPU" in lines["resources"]) == (gpus < 0)


def test_time_on_a_gpu_says_what_it_assumes(tiny_data: Path, store: Store, monkeypatch) -> None:
    monkeypatch.setattr(costs, "core_speed", lambda width, rows: SPEED)
    monkeypatch.setattr(prices, "core_speed", lambda width, rows: SPEED)
    base = with_settings(Config(), {**TINY, "data.root": str(tiny_data)})
    raydd.open(base, store).prepare()
    on_cpu = plan(base, lambda trial: {}, store, 1)
    on_gpu = plan(with_settings(base, {"sweep.gpus": 0.5}), lambda trial: {}, store, 1)
    assert on_gpu.seconds.mean == pytest.approx(on_cpu.seconds.mean * SPEED / prices.GPU_SPEED)
    assert "if a GPU does 1 TFLOP/s a trial" in dict(on_gpu.lines())["time"]
    assert on_cpu.assumed == ""


def test_experts_that_several_trials_read_are_worth_workers_from_some_seconds_on(
    tiny_data: Path, store: Store, monkeypatch
) -> None:
    speed = [1.0]
    monkeypatch.setattr(costs, "core_speed", lambda width, rows: speed[0])
    work = raydd.open(with_settings(Config(), {**TINY, "data.root": str(tiny_data)}), store)
    work.prepare()
    rates = [changed(work, {"experts.lr": rate}) for rate in (0.1, 0.2, 0.1)]
    assert [one.config.experts for one in plans.sharing_experts(rates)] == [rates[0].config.experts] * 2
    growing = [changed(work, {"distill.steps": 200, "distill.all_experts_at": 50, "experts.count": 20})] * 2
    # After 5 of the 50 percent, steps draw from the first two or three of twenty.
    assert [one.config.experts.count for one in plans.sharing_experts(growing)] == [2, 2]
    unpruned = [changed(growing[0], {"sweep.pruner": "none"})] * 2
    assert [one.config.experts.count for one in plans.sharing_experts(unpruned)] == [20, 20]
    speed[0] = 1e12
    assert plans.sharing_experts(rates) == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "scored by ridge regression, the last by 3 students; weak trials are stopped (asha)"),
        ({"sweep.last_rung_students": 1}, "scored by ridge regression, the last by 1 student; weak"),
        ({"sweep.pruner": "none"}, "scored by ridge regression; no trial is stopped"),
        ({"sweep.rung_students": 2}, "scored by 2 students; weak"),
        ({"distill.protocol": "encoder", "distill.images": "pixels"}, "scored by 1 student; weak"),
    ],
    ids=str,
)
def test_the_plan_says_what_scores_a_trial_on_its_way(
    tiny_data: Path, store: Store, settings: dict[str, Any], said: str
) -> None:
    config = with_settings(Config(), {**TINY, "data.root": str(tiny_data), **settings})
    assert said in dict(plan(config, lambda trial: {}, store, 1).lines())["rungs"]


def test_time_is_that_of_the_trials_and_not_of_the_base(seconds: Seconds) -> None:
    short = seconds(lambda trial: {}, 4, 1)
    assert seconds(lambda trial: {"distill.student_steps": 64}, 4, 1) > 2 * short
    assert seconds(lambda trial: {}, 4, 2) == pytest.approx(short / 2)


def test_trials_share_the_experts_of_a_recipe(seconds: Seconds) -> None:
    def two_recipes(trial: Trial) -> Mapping[str, Any]:
        trial.suggest_categorical("experts.lr", [0.1, 0.2])
        return {}

    four, eight = seconds(lambda trial: {}, 4, 1), seconds(lambda trial: {}, 8, 1)
    trials = eight - four
    assert 0 < trials < four
    assert seconds(two_recipes, 16, 1) == pytest.approx(4 * trials + 2 * (four - trials))


def test_experts_of_one_recipe_are_as_many_as_any_trial_reads(seconds: Seconds) -> None:
    def counts(trial: Trial) -> Mapping[str, Any]:
        trial.suggest_categorical("experts.count", [1, 4])
        return {}

    def of(count: int) -> Suggest:
        return lambda trial: {"experts.count": count}

    assert seconds(counts, 16, 1) == pytest.approx(seconds(of(4), 16, 1))
    assert seconds(of(4), 16, 1) > seconds(of(1), 16, 1)


def test_wider_heads_are_priced_with_their_own_experts(seconds: Seconds) -> None:
    def widths(trial: Trial) -> Mapping[str, Any]:
        trial.suggest_categorical("experts.width", [16, 64])
        return {}

    narrow, wide = (seconds(lambda trial, width=width: {"experts.width": width}, 16, 1) for width in (16, 64))
    assert narrow < seconds(widths, 16, 1)
    assert wide > 2 * narrow


def test_the_plan_tells_what_finals_cost_in_pixels(
    tiny_data: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(costs, "image_seconds", lambda encoders, images: 5.0)
    base = with_settings(Config(), {**TINY, "data.root": str(tiny_data)})

    def finals(settings: Mapping[str, Any]) -> str:
        lines = plan(with_settings(base, settings), lambda trial: {}, store, 1).lines()
        return next(text for name, text in lines if name == "finals")

    assert finals({}).endswith("val then test, about 2 min of one core each")  # 6 pairs, 4 steps
    assert finals({"distill.images": "features"}).endswith("val then test")
    assert finals({"sweep.gpus": 0.5}).endswith("val then test")
    assert finals({"sweep.finalists": 0}) == "none"


def test_the_time_is_a_range_where_it_is_not_known_well(tiny_data: Path, store: Store) -> None:
    made = plan(with_settings(Config(), {**TINY, "data.root": str(tiny_data)}), lambda trial: {}, store, 2)

    def told(low: float, mean: float, high: float) -> str:
        return dict(replace(made, seconds=Expected(mean, low, high)).lines())["time"]

    assert told(1200, 1800, 2400) == "about 20 to 40 min"
    assert told(50, 100, 180) == "about 50 s to 3 min"
    assert told(1500, 1800, 2100) == "about 30 min"


def test_the_plan_names_what_is_not_searched_since_the_user_set_it(tiny_data: Path, store: Store) -> None:
    def suggest(trial: Trial) -> Mapping[str, Any]:
        trial.suggest_float("distill.image_lr", 0.1, 0.2)
        trial.suggest_int("distill.steps", 100, 1000)
        return {"distill.momentum": 0.25}

    config, space = with_settings(Config(), {**TINY, "data.root": str(tiny_data)}), Space("mine", suggest)

    def told(*given: str) -> str | None:
        kept = with_fixed_settings(space, config, given)
        made = make_plan(raydd.open(config, store), kept, draw_configs(kept, config), None, 1)
        return dict(made.lines()).get("not searched")

    assert told("distill.pairs") is None
    assert told("distill.steps") == "distill.steps, since you set it"
    assert told("distill.steps", "distill.momentum") == "distill.steps, distill.momentum, since you set them"


def test_trials_that_are_over_say_how_long_others_take(tiny_data: Path, store: Store) -> None:
    config = with_settings(Config(), {**TINY, "data.root": str(tiny_data), "sweep.trials": 30, "sweep.together": 4})
    study, space = optuna.create_study(direction="maximize"), Space("mine", lambda trial: {})
    for held in (10.0, 12.0, 14.0):
        trial = study.ask()
        trial.set_user_attr(studies.HELD, held)
        study.tell(trial, 1.0) if held > 12 else study.tell(trial, state=TrialState.PRUNED)
    made = make_plan(raydd.open(config, store), space, draw_configs(space, config), study, 8)
    assert made.seconds.mean == 27 * 12 / 8  # each held its place among eight, whatever slots they sat in
    assert made.seconds.low < made.seconds.mean < made.seconds.high < 1.2 * made.seconds.mean
    assert made.seconds_at_once(64) == made.seconds.mean
    growing = make_plan(raydd.open(config, store), space, draw_configs(space, config), study, 0)
    assert [growing.seconds_at_once(count) for count in (0, 1, 8, 64)] == [27 * 12, 27 * 12, 27 * 12 / 8, 12]


def test_the_time_on_a_cluster_that_grows_is_shared_by_its_slots(tiny_data: Path, store: Store) -> None:
    config = with_settings(Config(), {**TINY, "data.root": str(tiny_data), "sweep.trials": 30, "sweep.together": 4})
    space = Space("mine", lambda trial: {})
    raydd.open(config, store).prepare()
    made = make_plan(raydd.open(config, store), space, draw_configs(space, config), None, 0)
    assert made.seconds.mean > 0
    assert made.seconds_at_once(8) == made.seconds.mean / 2


def test_finals_that_were_made_are_counted_so(tiny_data: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "image_seconds", lambda encoders, images: 5.0)
    base = with_settings(Config(), {**TINY, "data.root": str(tiny_data), "sweep.trials": 2})
    study, space = optuna.create_study(direction="maximize"), Space("mine", lambda trial: {})
    for rate, score in ((0.1, 30.0), (0.2, 40.0)):
        trial = study.ask()
        trial.set_user_attr(studies.SETTINGS, {"distill.image_lr": rate})
        study.tell(trial, score)

    def finals(config: Config) -> str:
        return dict(make_plan(raydd.open(config, store), space, draw_configs(space, config), study, 1).lines())[
            "finals"
        ]

    assert finals(base).endswith("val then test, about 2 min of one core each")
    final_synthetic(raydd.open(with_settings(base, {"distill.image_lr": 0.2}), store))
    assert finals(base).endswith("val then test; 1 of 2 made already, about 2 min of one core each")
    final_synthetic(raydd.open(with_settings(base, {"distill.image_lr": 0.1}), store))
    assert finals(base).endswith("val then test; 2 of 2 made already")
    assert "made already" not in finals(with_settings(base, {"sweep.trials": 3}))  # whose best may be another


def test_trials_on_features_step_together_on_a_gpu(tiny_data: Path) -> None:
    on_gpus = {"sweep.gpus": 1.0}
    pixels = {"distill.protocol": "encoder", "distill.images": "pixels", "distill.gradient": "constant-memory"}
    assert together(Config()) == 1
    assert together(with_settings(Config(), on_gpus)) == 16
    assert together(with_settings(Config(), {"sweep.together": 3})) == 3
    assert together(with_settings(Config(), {**on_gpus, **pixels, "evaluate.baselines": ["random"]})) == 1
    with pytest.raises(ConfigError, match=r"sweep\.together is 3, .* Set sweep\.together to 1"):
        together(with_settings(Config(), {**pixels, "sweep.together": 3, "evaluate.baselines": ["random"]}))


@pytest.mark.parametrize(("space", "at_once"), [("demo", 16), ("matching", 1), ("starts", 16)])
def test_trials_share_a_slot_on_a_gpu_if_most_of_them_have_the_same_shape(space: str, at_once: int) -> None:
    base = with_settings(Config(), {"sweep.gpus": 1.0})
    assert together(base, draw_configs(load_space(space), base)) == at_once
    assert together(with_settings(base, {"sweep.together": 4}), draw_configs(load_space(space), base)) == 4


def test_a_plan_without_trajectories_speaks_of_no_experts_and_runs_trials_one_by_one(
    tiny_data: Path, store: Store
) -> None:
    ours = {"distill.objective": "covariance", "sweep.gpus": 1.0, "sweep.together": 4}
    base = with_settings(Config(), {**TINY, "data.root": str(tiny_data), "distill.images": "features", **ours})
    lines = dict(plan(base, lambda trial: {}, store, 1).lines())
    assert "experts" not in lines
    assert lines["one by one"] == "trials of distill.objective covariance do not share a slot"
    assert together(base) == 1
    matching = with_settings(base, {"distill.objective": "trajectory"})
    assert together(matching, [matching]) == 4
    assert together(matching, [matching, base]) == 1
    lines = dict(plan(matching, lambda trial: {}, store, 1).lines())
    assert "experts" in lines
    assert "one by one" not in lines


def test_a_step_is_expected_to_take_what_its_objective_computes(seconds: Seconds) -> None:
    took = {
        name: seconds(lambda trial, name=name: {"distill.objective": name, "distill.steps": 10_000}, 1, 1)
        for name in ("trajectory", "covariance", "ridge", "gradient")
    }
    assert took["covariance"] < took["ridge"] < took["gradient"]
    assert took["covariance"] < took["trajectory"]
