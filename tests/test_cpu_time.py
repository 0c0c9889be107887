"""CPU seconds by part: each second is counted once."""

import time
from collections import defaultdict

import pytest

from raydd import cpu_time


def compute(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


@pytest.fixture(autouse=True)
def nothing_counted(monkeypatch):
    monkeypatch.setattr(cpu_time, "_seconds_by_part", defaultdict(float))


def test_what_is_computed_within_counts_as_the_part_s():
    before = cpu_time.cpu_seconds()
    with cpu_time.counted_as("scores"):
        compute(0.2)
    compute(0.1)
    after = cpu_time.cpu_seconds()
    assert after["scores"] == pytest.approx(0.2, abs=0.05)
    assert after[cpu_time.REST] - before[cpu_time.REST] == pytest.approx(0.1, abs=0.05)


@cpu_time.counted_as("distillation steps")
def fail_in_an_inner_part() -> None:
    compute(0.1)
    with cpu_time.counted_as("experts"):
        compute(0.2)
        raise ValueError("in the inner part")


def test_an_inner_part_is_taken_from_the_outer_one_and_an_error_ends_both():
    with pytest.raises(ValueError, match="in the inner part"):
        fail_in_an_inner_part()
    found = cpu_time.cpu_seconds()
    assert found["experts"] == pytest.approx(0.2, abs=0.05)
    assert found["distillation steps"] == pytest.approx(0.1, abs=0.05)
    assert cpu_time._inner_seconds == []


def test_waiting_costs_nothing():
    with cpu_time.counted_as("scores"):
        time.sleep(0.3)
    assert cpu_time.cpu_seconds()["scores"] < 0.1


def test_a_stopwatch_tells_wall_and_cpu_time_apart():
    watch = cpu_time.Watch()
    time.sleep(0.1)
    compute(0.1)
    first = watch.read()
    assert first.seconds >= 0.19
    assert first.cpu_seconds == pytest.approx(0.1, abs=0.05)
    total = first + cpu_time.ElapsedTime(1.0, 2.0)
    assert (total - first).cpu_seconds == pytest.approx(2.0)
    assert total.share(0.5).seconds == pytest.approx(first.seconds / 2 + 0.5)
