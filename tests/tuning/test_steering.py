"""A sweep steered from outside, through real studies in SQLite."""

from types import SimpleNamespace

import pytest
from optuna.trial import TrialState
from ray.tune.search import Searcher

from raydd.config import SweepConfig
from raydd.errors import ConfigError
from raydd.settings import with_settings
from raydd.tuning import steering
from raydd.tuning import study as studies
from raydd.tuning.lease import driving
from raydd.tuning.samplers import renew_sampler
from raydd.tuning.searcher import StudySearch


@pytest.fixture
def study(config, space, address):
    return studies.open_study(config, space, address)


def ask(study, space):
    renew_sampler(study, 0)
    trial = study.ask()
    trial.set_user_attr(studies.SETTINGS, space.settings(trial))
    return trial


def enqueued(study, space, config, tmp_path, text):
    file = tmp_path / "trials.yaml"
    file.write_text(text)
    return steering.enqueue(study, space, config, file)


def test_trials_by_hand_come_next(study, space, config, tmp_path):
    text = "- {distill.blend: fixed, distill.blend_ratio: 0.3, distill.image_lr: 0.5}\n- distill.image_lr: 0.02\n"
    ask(study, space)  # the first settings
    assert enqueued(study, space, config, tmp_path, text) == 2
    assert ask(study, space).params == {"distill.blend": "fixed", "distill.blend_ratio": 0.3, "distill.image_lr": 0.5}
    assert ask(study, space).params["distill.image_lr"] == 0.02


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- distill.image_lr: 3.0", r"distill\.image_lr of trial 1 is 3\.0, but the space small searches 0\.01 to 1\."),
        ("- distill.image_lr: '0.1'", r"is '0\.1', but the space small searches 0\.01 to 1"),
        ("- distill.blend: beta", r"searches one of none, fixed"),
        (
            "- distill.blend: none\n  distill.blend_ratio: 0.2",
            r"sets distill\.blend_ratio, which the space small does not",
        ),
        ("- distill.imag_lr: 0.1", r"Did you mean 'distill\.image_lr'\?"),
        ("distill.image_lr: 0.1", "must be a list of trials"),
        ("- [", "is not YAML"),
        ("- distill.image_lr: 0.1\n  distill.image_lr: 0.2", "is not YAML: .*image_lr"),
        ("[" * 5000, "is nested too deeply"),
    ],
)
def test_trials_by_hand_that_the_space_lacks_are_refused(study, space, config, tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        enqueued(study, space, config, tmp_path, text)
    assert len(study.trials) == 1  # the first settings; nothing of the file


def test_a_warm_start_tries_the_best_of_another_sweep(config, space, address, with_sweep):
    def suggest(trial):
        trial.suggest_float("distill.image_lr", 0.1, 9.0)
        trial.suggest_float("distill.text_lr", 0.1, 1.0)
        return {"distill.momentum": 0.25}

    other = studies.open_study(with_sweep(config, name="other", first=False), space, address)
    for rate, blend, score in ((2.0, "none", 1.0), (3.0, "none", 9.0), (0.2, "fixed", 8.0), (0.3, "none", 2.0)):
        other.enqueue_trial({"distill.image_lr": min(rate, 1.0), "distill.blend": blend, "distill.blend_ratio": 0.2})
        trial = ask(other, space)
        other.tell(trial, score)
    wide = type(space)("wide", suggest)
    study = studies.open_study(with_sweep(config, first=False), wide, address)
    said = steering.warm_start(study, wide, "other:2", address)
    assert said[0] == "warm start: other's best trials are tried next, 2 of them"
    assert said[1].endswith("not search them so: distill.blend, distill.blend_ratio")
    assert steering.warm_start(study, wide, "other:2", address) == []  # once
    drawn = [ask(study, wide).params["distill.image_lr"] for _ in range(2)]
    assert drawn == [1.0, 0.2]
    with pytest.raises(ConfigError, match=r"sweep\.warm_start is 'nobody:2': There is no sweep 'nobody'"):
        steering.warm_start(study, wide, "nobody:2", address)
    with pytest.raises(ConfigError, match="no complete trial"):
        steering.warm_trials(None, "small", address)


@pytest.mark.parametrize("begun", [False, True])
def test_a_warm_start_comes_first_in_a_new_sweep_and_behind_what_waits_in_one_that_has_begun(
    config, space, address, with_sweep, begun
):
    config = with_settings(config, {"place.study": address})
    other = steering.open_sweep(with_sweep(config, name="other", first=False), space)
    other.enqueue_trial({"distill.image_lr": 0.7, "distill.blend": "none"})
    other.tell(ask(other, space), 40.0)
    if begun:
        steering.open_sweep(config, space)
    config = with_sweep(config, warm_start="other")
    study = steering.open_sweep(config, space)
    (said,) = steering.warm_start(study, space, "other", address)
    rates = [ask(study, space).params["distill.image_lr"] for _ in range(2)]
    assert (rates, said.partition("tried ")[2]) == (
        ([0.1, 0.7], "after 1 trial queued before, 1 of them") if begun else ([0.7, 0.1], "first, 1 of them")
    )
    assert studies.waiting(study) == []


def test_a_driver_hears_what_another_terminal_says(study, space, config, address):
    listening = studies.load_study("small", address)
    search = StudySearch(
        listening, space, SweepConfig(trials=4), order=lambda: steering.order_of(listening, config.sweep)
    )
    with pytest.raises(ConfigError, match="The sweep 'small' is not running"):
        steering.give_order(study, "stop")
    with driving(listening):
        steering.give_order(study, "pause")
        assert search.suggest("a") is None
        steering.give_order(study, "go-on")
        assert search.suggest("a")
        steering.give_order(study, "stop")
        assert search.suggest("b") == Searcher.FINISHED
        steering.forget_orders(listening)
        assert search.suggest("b") != Searcher.FINISHED


@pytest.mark.parametrize(
    ("scores", "without"),
    [([], 0), ([40], 0), ([40, 40.4, 40.3], 2), ([40, 40.6, None], 1), ([40, 40.4, 40.8], 0), ([40, 30, None, 41], 0)],
)
def test_trials_without_a_gain_beyond_noise(study, space, scores, without):
    for score in scores:
        trial = ask(study, space)
        study.tell(trial, score, state=TrialState.COMPLETE if score else TrialState.PRUNED)
    studies.fail(study, ask(study, space), "ValueError: the disk of node 3")
    assert steering.trials_without_gain(study, SweepConfig(plateau_gain=0.5)) == without
    stops = steering.order_of(study, SweepConfig(plateau=2, plateau_gain=0.5)) == "stop"
    assert stops == (without >= 2)
    assert steering.order_of(study, SweepConfig()) == "go-on"


def test_the_days_between_a_killed_driver_and_the_next_cost_nothing(study, space, monkeypatch):
    orphan = ask(study, space)
    orphan.set_user_attr(studies.HELD, 1800.0)  # as the driver noted last
    studies.requeue_interrupted(study)
    monkeypatch.setattr(steering, "time", None)  # no clock is read
    assert steering.slot_hours(study) == 0.5


def test_what_the_space_sets_itself_cannot_be_given_by_hand(config, space, address, tmp_path):
    def suggest(trial):
        trial.suggest_float("distill.image_lr", 0.1, 0.9)
        return {"distill.momentum": 0.25}

    fixed = type(space)("fixed", suggest)
    study = studies.open_study(config, fixed, address)
    assert enqueued(study, fixed, config, tmp_path, "- {distill.image_lr: 0.2, distill.momentum: 0.25}") == 1
    with pytest.raises(
        ConfigError, match=r"distill\.momentum of trial 1 is 0\.5, but the space fixed searches 0\.25 al"
    ):
        enqueued(study, fixed, config, tmp_path, "- {distill.image_lr: 0.2, distill.momentum: 0.5}")


def test_money_ends_a_sweep(study, space, monkeypatch):
    done, running, _ = (ask(study, space) for _ in range(3))  # the third waits for a machine, and costs nothing
    study.tell(done, 1.0)
    running.set_user_attr(studies.BEGAN, 1000.0)
    monkeypatch.setattr(steering, "time", SimpleNamespace(time=lambda: 1000.0 + 2 * 3600))
    assert steering.slot_hours(study) == pytest.approx(2, abs=0.01)
    for limit, spent in ((0.9, True), (1.1, False)):
        sweep = SweepConfig(gpus=0.5, gpu_hours=limit)
        assert ("GPU-hours (sweep.gpu_hours)" in steering.why_enough(study, sweep)) == spent
        sweep = SweepConfig(price=0.25, cost=limit / 2)
        assert ("the trials cost 0.50 (sweep.cost)" in steering.why_enough(study, sweep)) == spent
        assert steering.order_of(study, sweep) == ("stop" if spent else "go-on")
    assert steering.why_enough(study, SweepConfig(gpu_hours=0.1)) == ""  # on CPUs
    with pytest.raises(ConfigError, match=r"must be 0 while sweep\.price is 0"):
        SweepConfig(cost=1.0)


def test_the_hours_of_slots_that_are_not_full_count_as_much_as_those_of_full_ones(study, space, monkeypatch):
    hour = 3600.0
    monkeypatch.setattr(steering, "time", SimpleNamespace(time=lambda: 4 * hour))
    for slot, began, held in (("a", 0, 2), ("a", 1, 2), ("b", 1, 1), ("b", 3, None), ("b", 3, None)):
        trial = ask(study, space)
        trial.set_user_attr(studies.BEGAN, began * hour + 1)
        trial.set_user_attr(studies.SLOT, slot)
        if held:
            trial.set_user_attr(studies.HELD, held * hour)
            study.tell(trial, 1.0)
    assert steering.slot_hours(study) == pytest.approx(3 + 1 + 1, abs=0.01)
    assert steering.why_enough(study, SweepConfig(gpus=1.0, together=16, gpu_hours=4.9))
    assert not steering.why_enough(study, SweepConfig(gpus=1.0, together=16, gpu_hours=5.1))


def test_what_a_space_takes_of_settings(space):
    fitted = steering.fit(space, {"distill.blend": "fixed", "distill.blend_ratio": 0.9, "distill.pairs": 3})
    assert fitted.taken == {"distill.blend": "fixed"}
    assert fitted.outside == {"distill.blend_ratio": "0.1 to 0.5"}
    assert fitted.unknown == ("distill.pairs",)
