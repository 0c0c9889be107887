import dataclasses
import re
import subprocess
import sys

import optuna
import pytest
from optuna.trial import TrialState

from raydd.cluster.trial_report import TrialReport
from raydd.errors import ConfigError
from raydd.tuning import study as studies
from raydd.tuning.samplers import renew_sampler
from search_spaces import with_fixed_settings


def ask(study, space):
    renew_sampler(study, seed=0)
    trial = study.ask()
    trial.set_user_attr(studies.SETTINGS, space.settings(trial))
    return trial


def test_published_settings_are_the_first_trials_of_a_new_study_only(config, space, address):
    study = studies.open_study(config, space, address)
    assert ask(study, space).params == {"distill.blend": "none", "distill.image_lr": 0.1}
    again = studies.open_study(config, space, address)
    assert [trial.state for trial in again.trials] == [TrialState.RUNNING]


def test_a_cold_start_has_no_first_trials(config, space, address, with_sweep):
    study = studies.open_study(with_sweep(config, first=False), space, address)
    assert study.trials == []


def test_interrupted_trials_do_not_count_and_are_asked_for_again(config, space, address):
    study = studies.open_study(config, space, address)
    first, second = ask(study, space), ask(study, space)
    study.tell(first, 10.0)
    assert studies.requeue_interrupted(studies.open_study(config, space, address)) == 1
    study = studies.open_study(config, space, address)
    assert studies.finished(study) == 1
    assert studies.counts(study) == {"complete": 1}
    again = ask(study, space)
    assert again.params == second.params
    assert studies.identity(again) == second.number != again.number


def test_an_interruption_interrupted_again_keeps_its_first_number(config, space, address):
    study = studies.open_study(config, space, address)
    number = ask(study, space).number
    for _ in range(2):
        studies.requeue_interrupted(study)
        again = ask(study, space)
    assert studies.identity(again) == number


@pytest.mark.parametrize("drawn_before", ["all", "some", "none"])
@pytest.mark.parametrize("interrupt_at", [0, 3])
def test_draws_after_an_interruption_are_those_of_an_undisturbed_sweep(
    config, space, address, with_sweep, interrupt_at, drawn_before
):
    def interrupted(study):
        if drawn_before == "all":
            ask(study, space)
            return
        renew_sampler(study, seed=0)
        trial = study.ask()
        if drawn_before == "some":  # the driver was killed between two settings
            trial.suggest_categorical("distill.blend", ["none", "fixed"])

    def drawn(name, interrupt_at):
        study = studies.open_study(with_sweep(config, name=name), space, address)
        for position in range(6):
            if position == interrupt_at:
                interrupted(study)
                studies.requeue_interrupted(study)
            trial = ask(study, space)
            study.tell(trial, trial.params["distill.image_lr"])
        done = study.get_trials(states=(TrialState.COMPLETE,))
        return [trial.params for trial in done]

    assert drawn("calm", None) == drawn("stormy", interrupt_at)


def test_failures_have_a_reason_and_count(config, space, address):
    study = studies.open_study(config, space, address)
    studies.fail(study, ask(study, space), "loss is nan at step 3")
    assert studies.finished(study) == 1
    assert studies.reason(study.trials[0]) == "loss is nan at step 3"


def test_best_trials_come_first(config, space, address):
    study = studies.open_study(config, space, address)
    for value in (3.0, 5.0, 4.0):
        study.tell(ask(study, space), value)
    assert [trial.number for trial in studies.ranked(study, ["r_mean"])] == [1, 2, 0]


def test_a_front_of_two_objectives(config, space, address, with_sweep):
    config = with_sweep(config, objectives=("r_mean", "seconds"))
    study = studies.open_study(config, space, address)
    for values in ([30.0, 10.0], [40.0, 20.0], [35.0, 30.0]):
        study.tell(ask(study, space), values)
    assert [trial.number for trial in studies.pareto_front(study)] == [0, 1]


def test_the_cpu_seconds_of_each_process_count_once(config, space, address):
    study = studies.open_study(config, space, address)
    first, later = {"scores": 2.0, "experts": 1.0}, {"scores": 3.0, "experts": 4.0}
    for process, seconds in (("one", first), ("two", {"scores": 5.0}), ("one", later)):
        trial = study.ask()
        report = TrialReport(process=process, cpu_seconds=list(seconds.items()), record="folder")
        trial.set_user_attr(studies.REPORT, dataclasses.asdict(report))
        study.tell(trial, 1.0)
    studies.fail(study, study.ask(), "before it said anything")
    assert list(studies.cpu_seconds(study).items()) == [("scores", 8.0), ("experts", 4.0)]


def test_other_settings_under_the_same_name_are_refused(config, space, address):
    studies.open_study(config, space, address)
    other = dataclasses.replace(config, distill=dataclasses.replace(config.distill, pairs=50))
    with pytest.raises(ConfigError, match=r"distill\.pairs 99, and this command says 50"):
        studies.open_study(other, space, address)


@pytest.mark.parametrize(("then", "now"), [([], ["distill.image_lr"]), (["distill.image_lr"], [])])
def test_a_flag_that_repeats_the_files_value_makes_another_space_and_may_not_come_later(
    config, space, address, then, now
):
    before, after = (with_fixed_settings(space, config, given) for given in (then, now))
    for _ in range(2):
        studies.open_study(config, before, address)
    message = re.escape(f"settings fixed by flags {then}, and this command says {now}")
    for open_again in (studies.open_study, studies.find_study):
        with pytest.raises(ConfigError, match=message):
            open_again(config, after, address)


def test_a_sweep_of_an_earlier_version_which_did_not_keep_its_flags_goes_on(config, space, address):
    study = studies.open_study(config, space, address)
    base = dict(study.user_attrs["base"])
    del base["settings fixed by flags"]
    study.set_user_attr("base", base)
    studies.open_study(config, with_fixed_settings(space, config, ["distill.image_lr"]), address)


def test_what_only_the_finals_read_may_change(config, space, address, with_sweep):
    first = ask(studies.open_study(config, space, address), space)
    other = with_sweep(config, trials=40, finalists=8)
    other = dataclasses.replace(other, pixels=dataclasses.replace(config.pixels, steps=5))
    for again in (studies.open_study(other, space, address), studies.find_study(other, space, address)):
        assert again is not None
        assert [trial.params for trial in again.trials] == [first.params]  # the same study goes on


def test_latest_is_the_sweep_whose_trials_began_last_unless_one_bears_that_name(config, space, address, with_sweep):
    with pytest.raises(ConfigError, match="There is no sweep in"):
        studies.sweep_named("latest", address)
    first, second = (with_sweep(config, name=name) for name in ("b", "a"))
    for swept in (first, second, first):
        ask(studies.open_study(swept, space, address), space)
    studies.open_study(with_sweep(config, name="c"), space, address)  # none of its trials has begun
    assert studies.sweep_named("latest", address) == "b"
    assert studies.sweep_named("a", address) == "a"
    studies.open_study(with_sweep(config, name="latest"), space, address)
    assert studies.sweep_named("latest", address) == "latest"


def test_a_study_of_another_program_in_the_same_database_is_no_sweep(config, space, address):
    studies.open_study(config, space, address)
    optuna.create_study(study_name="theirs", storage=address).ask()
    assert studies.sweep_named("latest", address) == "small"
    with pytest.raises(ConfigError, match=r"no sweep 'theirs' .* Known: small\."):
        studies.load_study("theirs", address)


def test_a_database_that_cannot_be_opened_is_named_without_its_password(config, space):
    with pytest.raises(ConfigError, match=r"mariadb://me:\*\*\*@host/db") as raised:
        studies.open_study(config, space, "mariadb://me:secret@host/db")
    assert "secret" not in str(raised.value)


@pytest.mark.slow
def test_sweeps_that_make_a_new_database_at_once_all_get_it(address):
    code = """
import sys, time
from raydd.tuning.database import open_storage
print("ready", flush=True)
sys.stdin.readline()
open_storage(sys.argv[1]).get_all_studies()
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    makers = [subprocess.Popen([sys.executable, "-c", code, address], **pipes) for _ in range(3)]
    for maker in makers:
        assert maker.stdout.readline() == "ready\n"
    for maker in makers:
        maker.stdin.write("\n")
        maker.stdin.flush()
    for maker in makers:
        maker.communicate()
    assert [maker.returncode for maker in makers] == [0, 0, 0]


def test_a_sweep_knows_its_data_its_encoders_and_its_code(config, space, address, tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text("def space(trial):\n    return {}\n")
    config = dataclasses.replace(config, sweep=dataclasses.replace(config.sweep, space=f"{mine}:space"))
    study = studies.open_study(config, space, address)
    before = studies.sources_of(config, "data1")
    assert set(before) == {"data set", "image encoder", "text encoder", "search space"}
    studies.require_same_sources(study, before, remember=True)
    studies.require_same_sources(study, before, remember=True)
    with pytest.raises(ConfigError, match=r"another data set \(data set data1, now data2\).*another sweep\.name"):
        studies.require_same_sources(study, {**before, "data set": "data2"}, remember=False)
    mine.write_text("def space(trial):\n    return {'distill.blend': 'none'}\n")
    with pytest.raises(ConfigError, match="was started with another search space"):
        studies.require_same_sources(study, studies.sources_of(config, "data1"), remember=True)
    random = dataclasses.replace(config.encoders, image_weights="random:7")
    other = studies.sources_of(dataclasses.replace(config, encoders=random), "data1")
    with pytest.raises(ConfigError, match="another image encoder and another search space"):
        studies.require_same_sources(study, other, remember=True)


def test_settings_whose_driver_was_killed_before_it_queued_them_again_are_queued_by_the_next(config, space, address):
    study = studies.open_study(config, space, address)
    ask(study, space)
    second = ask(study, space)
    studies.fail(study, second, studies.INTERRUPTED)  # and kill -9
    for _ in range(2):  # once, however often it is looked for
        studies.requeue_interrupted(study)
    again = ask(study, space)
    assert studies.identity(again) in (0, second.number)
    assert {studies.identity(again), studies.identity(ask(study, space))} == {0, second.number}
    assert study.get_trials(states=(TrialState.WAITING,)) == []
