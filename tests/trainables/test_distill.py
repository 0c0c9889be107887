import math
import os
import shutil
import time
from itertools import pairwise

import psutil
import pytest
import ray
import torch
from claimant_alone import Alone

import raydd
from raydd import stages
from raydd.cluster import sharing
from raydd.cluster.claims import open_claims
from raydd.cluster.sharing import Shared, share_making
from raydd.place import open_store
from raydd.progress import Leave
from raydd.protocols import changed
from raydd.protocols.heads import HeadsWorkbench
from raydd.settings import with_settings
from raydd.store import Store
from trainables import distill


@pytest.fixture
def alone(monkeypatch):
    monkeypatch.setattr(sharing, "Claimant", lambda ledger, holder: Alone())


@pytest.fixture
def trial(alone):
    """A trial's reports, to come."""

    def begin(config, settings=(), *, listings=()):
        given = {"number": 0, "passed": [], "settings": dict(settings)}
        return distill.trial_reports(given, config, Shared("sweep", dict(listings), None))

    return begin


def test_a_trial_reports_at_its_rungs_and_at_the_end_and_repeats_at_no_cost(config, trial):
    reported = list(trial(config, {"distill.image_lr": 0.02}))
    assert [(report.step, report.rung) for report in reported] == [(4, 5), (8, 15), (24, 45), (50, 0)]
    assert [report.finished for report in reported] == [False] * 3 + [True]
    assert [len(report.students) for report in reported] == [1, 1, 3, 3]
    losses = [point["step"] for report in reported for point in report.curve if "distill/loss" in point]
    assert losses == list(range(2, 51, 2))
    gaps = [point["step"] for report in reported for point in report.curve if "collapse/modality_gap" in point]
    assert gaps == list(range(0, 51, 5))
    assert all(sorted(steps := [point["step"] for point in report.curve]) == steps for report in reported)
    assert all(0 <= report.r_mean <= 100 for report in reported)
    last = reported[-1]
    assert all(dict(last.cpu_seconds)[part] > 0 for part in ("distillation steps", "fits of learning rates", "scores"))
    assert last.bytes == 4 * (6 * (1280 + 384) + 6 + 2 * 6 * 3 + 1280) + 16  # pairs, similarity, centre, rates
    assert {"val/IR@1", "collapse/modality_gap", "distill/loss"} <= set(last.curve[-1])

    (again,) = trial(config, {"distill.image_lr": 0.02})
    assert _without_scores(again.curve) == _without_scores([point for report in reported for point in report.curve])
    assert (again.step, again.r_mean, again.seconds, again.record) == (50, last.r_mean, last.seconds, last.record)


def test_the_student_that_rates_were_fitted_by_is_not_trained_again(config, trial, monkeypatch):
    trained, train = [], stages.score_students

    def counted(work, pairs, *, split, seeds):
        trained.extend(seeds)
        return train(work, pairs, split=split, seeds=seeds)

    monkeypatch.setattr(stages, "score_students", counted)
    list(trial(config))
    assert trained == [1, 2, 1, 2]  # at the last rung and at the end
    list(trial(config, {"distill.fit_rates": False}))
    assert trained == [1, 2, 1, 2, 0, 1, 2, 0, 1, 2]


def test_a_trial_that_goes_on_tells_its_whole_curve(config, trial):
    store, kept = open_store(config.place), 0

    def told() -> list[dict[str, float]]:
        return [point for report in trial(config) for point in report.curve]

    def leave(work, done, total):
        if work == "distillation steps" and done > kept:
            raise KeyboardInterrupt  # no time for a word

    whole = told()
    assert len(whole) == len({point["step"] for point in whole}) == 31
    for kept in (24, 30, 47):
        shutil.rmtree(store.folder / "synthetic")
        config = with_settings(config, {"distill.checkpoint_every": kept})
        with pytest.raises(KeyboardInterrupt):
            stages.final_synthetic(raydd.open(config, store, leave))
        reports = list(trial(config))
        assert _without_scores([point for report in reports for point in report.curve]) == _without_scores(whole)
        points = [point for point in reports[0].curve if "distill/seconds" in point]
        steps = [end - start for start, end in pairwise([0, *(point["step"] for point in points)])]
        assert sum(steps) == reports[0].step < reports[0].steps
        seconds = sum(count * point["distill/seconds"] for count, point in zip(steps, points, strict=True))
        assert reports[0].seconds == pytest.approx(seconds)


def _without_scores(curve):
    """A curve without what is timed, or told where a trial stands."""
    return [
        {
            name: value
            for name, value in point.items()
            if not name.startswith(("val/", "rung/", "distill/sec", "distill/cpu_sec"))
        }
        for point in curve
    ]


def test_a_trial_is_scored_alike_whatever_its_sweep_is_extended_with(config, trial):
    reported = []
    for settings in ({}, {"evaluate.choice": "best-on-split", "evaluate.checks": 11}):
        other = with_settings(config, {"students.epochs": 60, "sweep.rung_students": 1, **settings})
        reported += trial(other)
    assert [report.rung for report in reported] == [5, 15, 45, 0, 0]  # the second time it is in the store
    assert reported[-2].students == reported[-1].students


def test_a_failure_is_a_report_with_its_reason(config, trial):
    (report,) = trial(config, {"distill.rank": 0})
    assert report.failure.startswith("ConfigError: distill.rank is 0")
    assert math.isnan(report.r_mean)


def test_rungs_that_were_passed_are_left_out_and_students_may_score_the_others(config):
    work = raydd.open(with_settings(config, {"sweep.rungs": (5, 15), "sweep.rung_students": 2, "distill.seed": 3}))
    reports = list(distill.distillation_reports(work, passed=[5]))
    assert [(report.rung, len(report.students)) for report in reports] == [(15, 2), (0, 3)]


def test_the_last_rung_is_scored_by_students_at_fitted_rates_where_trials_are_stopped(config):
    work = raydd.open(config)
    synthetic = stages.final_synthetic(work).at_multiple(1 / 8)
    closed, short = work.ridge_scores(synthetic), changed(work, {"students.epochs": 3})
    assert distill.rung_scores(work, synthetic, 15) == closed
    fitted = stages.fit_rates(short, synthetic).pairs
    assert fitted.rate_image != synthetic.rate_image
    expected = stages.score_students(short, fitted, split="val", seeds=range(3))
    assert distill.rung_scores(work, synthetic, 45) == expected
    unfitted = changed(work, {"distill.fit_rates": False})
    assert distill.rung_scores(unfitted, synthetic, 45) == stages.score_students(
        short, synthetic, split="val", seeds=range(3)
    )
    alone = changed(work, {"sweep.last_rung_students": 1})
    assert distill.rung_scores(alone, synthetic, 45).seeds == expected.seeds[:1]
    for settings in ({"sweep.last_rung_students": 0}, {"sweep.pruner": "none"}):
        assert distill.rung_scores(changed(work, settings), synthetic, 45) == closed


def test_a_trial_whose_features_are_cached_needs_no_data(config, trial, tiny_data, tmp_path):
    given = {"data.root": str(shutil.copytree(tiny_data, tmp_path / "data"))}
    config = with_settings(config, given)
    work = raydd.open(config, open_store(config.place))
    work.prepare()
    shutil.rmtree(tmp_path / "data")
    reported = list(trial(config, listings=work.opened.listings))
    assert [report.failure for report in reported] == [""] * 4
    assert reported[-1].finished


def test_a_cuda_error_is_reported_and_ends_the_process(config, trial, monkeypatch):
    def broken(work, passed):
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nSet CUDA_LAUNCH_BLOCKING=1")

    monkeypatch.setattr(distill, "distillation_reports", broken)
    reports = trial(config)
    assert next(reports).failure == "AcceleratorError: CUDA error: an illegal memory access was encountered"
    with pytest.raises(torch.AcceleratorError):
        next(reports)


def test_experts_that_others_are_making_are_waited_for(config, monkeypatch):
    store = open_store(config.place)
    raydd.open(config, store).prepare()  # which may sleep too
    claimant = Alone(taken={0, 1})

    def others_finish(seconds):
        assert sorted(raydd.open(config, store).missing_experts) == [0, 1]  # everything else was done first
        claimant.taken.clear()

    monkeypatch.setattr(time, "sleep", others_finish)
    share_making(raydd.open(config, store), claimant)
    assert raydd.open(config, store).missing_experts == []


def test_experts_that_train_side_by_side_are_claimed_together(config, monkeypatch):
    config = with_settings(config, {"experts.count": 6})
    calls = []
    train = HeadsWorkbench.train_experts

    def note(work, experts, numbers, epochs):
        calls.append(list(numbers))
        train(work, experts, numbers, epochs)

    monkeypatch.setattr(HeadsWorkbench, "train_experts", note)
    monkeypatch.setattr(HeadsWorkbench, "experts_at_once", 4)  # as on a GPU
    work, claimant = raydd.open(config, open_store(config.place)), Alone(taken={1})
    work.prepare()  # which may sleep too
    monkeypatch.setattr(time, "sleep", lambda seconds: claimant.taken.clear())
    share_making(work, claimant)
    assert calls == [[0, 2, 3, 4], [5], [1]]


def test_a_trial_waits_for_an_expert_when_a_step_draws_it_and_no_sooner(config, monkeypatch):
    claimant, store = Alone(), open_store(config.place)
    monkeypatch.setattr(sharing, "Claimant", lambda ledger, holder: claimant)
    config = with_settings(config, {"distill.all_experts_at": 45})
    left = []
    with sharing.shared_work(config, "trial 0", Shared("sweep", {}, None)) as work:
        left += [raydd.open(config, store).missing_experts for _ in distill.distillation_reports(work)]
        experts, claimant.taken = work.open_experts(), {2}
        store.remove(f"{experts.record.folder}/{experts.name(0, 2)}")
        store.remove(f"{experts.record.folder}/{experts.name(2, 2)}")
        waited = []
        monkeypatch.setattr(time, "sleep", lambda seconds: (waited.append(seconds), claimant.taken.clear()))
        work.ensure_expert(experts, 2)
    assert left == [[1, 2, 3], [2, 3], [], []]
    assert waited  # for the one that somebody else had
    assert raydd.open(config, store).missing_experts == []  # 0 was made meanwhile


@pytest.mark.parametrize("told_in", ["expert", "students"])
def test_a_trial_told_to_leave_between_its_steps_keeps_its_state(config, monkeypatch, told_in):
    work = raydd.open(with_settings(config, {"distill.all_experts_at": 45}), open_store(config.place))
    steps = []

    def told(*_):
        raise Leave

    def fetch(experts, expert):
        told() if told_in == "expert" and expert else ensure_expert(experts, expert)  # collapse reads expert 0

    monkeypatch.setattr(work, "progress", lambda name, done, total: name == "distillation steps" and steps.append(done))
    ensure_expert = work.ensure_expert
    monkeypatch.setattr(work, "ensure_expert", fetch)
    monkeypatch.setattr(distill, "rung_scores", told if told_in == "students" else distill.rung_scores)
    with pytest.raises(Leave):
        list(distill.distillation_reports(work))
    kept = stages.synthetic_record(work).read_tensors("checkpoint.safetensors")
    assert 0 < len(steps) == int(kept["done"])
    assert len(steps) % work.config.distill.checkpoint_every  # no step at which it is kept anyway


def test_tune_gets_report_after_report_and_the_process_takes_another_trial(config, alone):
    first = {"number": 0, "passed": [], "settings": {}}
    trial = distill.DistillTrial.__new__(distill.DistillTrial)  # without Tune's own files
    trial.setup(first, base=config, shared=Shared("sweep", {}, None))
    steps = [trial.step() for _ in range(4)]
    assert [step["step"] for step in steps] == [4, 8, 24, 50]
    assert trial.step() == {"__duplicate__": True}
    assert trial.reset_config({**first, "number": 1, "settings": {"distill.seed": 1}})
    assert trial.step()["step"] == 4
    trial.cleanup()


@pytest.mark.slow
def test_between_two_steps_a_process_that_gets_sigterm_ends_at_once(ray_here, config):
    class Worker:
        def __init__(self, ledger):
            self.trial = distill.DistillTrial.__new__(distill.DistillTrial)
            given = {"number": 0, "passed": [], "settings": {}}
            self.trial.setup(given, base=config, shared=Shared("sweep", {}, ledger))

        def step(self):
            return self.trial.step()["step"], os.getpid()

    worker = ray.remote(Worker).remote(open_claims(config.place.home))
    step, pid = ray.get(worker.step.remote())
    process = psutil.Process(pid)
    process.terminate()
    process.wait(20)
    record = stages.synthetic_record(raydd.open(config, open_store(config.place)))
    assert int(record.read_tensors("checkpoint.safetensors")["done"]) == step


def test_when_a_trial_has_reported_all_that_it_has_done_is_kept(config, trial):
    for report in trial(config):
        if not report.finished:
            kept = stages.synthetic_record(raydd.open(config, open_store(config.place))).read_tensors(
                "checkpoint.safetensors"
            )
            assert int(kept["done"]) == report.step


def test_a_trial_whose_report_at_a_rung_was_not_heard_reports_the_same_again(config, trial):
    def told(reports):
        return [(report.step, report.rung, report.r_mean) for report in reports]

    undisturbed = told(trial(config))
    shutil.rmtree(open_store(config.place).folder / "synthetic")
    unheard = trial(config)
    assert told([next(unheard)]) == undisturbed[:1]
    with pytest.raises(KeyboardInterrupt):
        unheard.throw(KeyboardInterrupt())  # the driver was killed before it noted the report
    assert told(trial(config)) == undisturbed


def test_a_distillation_that_is_told_to_leave_goes_on_at_the_step_where_it_was(config, tmp_path):
    store, steps = open_store(config.place), []

    def leave_at_step_30(work, done, total):
        if work == "distillation steps":
            steps.append(done)
            if len(steps) == 30:
                raise Leave

    with pytest.raises(Leave):
        stages.final_synthetic(raydd.open(config, store, leave_at_step_30))
    made = stages.final_synthetic(raydd.open(config, store, leave_at_step_30))
    assert steps == list(range(1, 51))
    undisturbed = stages.final_synthetic(raydd.open(config, Store(tmp_path / "undisturbed")))
    assert torch.equal(made.image_features, undisturbed.image_features)
    assert (made.rate_image, made.rate_text) == (undisturbed.rate_image, undisturbed.rate_text)
