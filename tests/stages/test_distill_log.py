"""The notes of a distillation: kept as tensors with a checkpoint, and read back to the same means."""

import torch

from raydd.stages.distill_log import Log, without_log

STEPS = [{"loss": float(step), "seconds": 0.5, "cpu_seconds": 0.25} for step in range(1, 8)]
LOG = Log(list(STEPS), [{"step": 0, "gap": 0.5}, {"step": 5, "gap": 0.25}])


def test_notes_come_back_from_a_checkpoint_and_leave_its_other_tensors():
    state = {"image": torch.ones(2, 3)} | LOG.tensors()

    assert Log.of_tensors(state) == LOG
    assert set(without_log(state)) == {"image"}
    assert Log.of_tensors(Log().tensors()) == Log()


def test_points_before_a_step_are_means_over_the_steps_since_the_one_before():
    assert [(point["step"], point["loss"]) for point in LOG.means_before(7, 3)] == [(3, 2.0), (6, 5.0)]
    assert [point["step"] for point in LOG.means_before(6, 3)] == [3]  # the one at step 6 is told as it is reached
    assert LOG.means_before(7, 0) == []
    assert LOG.last_means(2)["loss"] == 6.5
    assert LOG.last_means(0) == {}


def test_what_the_steps_took():
    assert (LOG.seconds, LOG.cpu_seconds) == (3.5, 1.75)
    of_an_older_checkpoint = Log([{"loss": 1.0, "seconds": 0.5}, STEPS[0]])
    assert (of_an_older_checkpoint.seconds, of_an_older_checkpoint.cpu_seconds) == (1.0, None)
