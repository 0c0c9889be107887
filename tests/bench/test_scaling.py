"""Each scale at a point of seconds."""

from pathlib import Path

import pytest

from bench import scaling


def test_an_unknown_scale_is_answered_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert scaling.main(scaling.Options(name="pears")) == 2
    assert "There is no scale 'pears'. The scales: pairs, steps, " in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize(
    ("name", "at"),
    [
        ("pairs", 24),
        ("steps", 2),
        ("captions", 20_000),
        ("encoder-steps", 1),
        ("encoder-steps-exact", 1),
        ("encoder-steps-unrolled", 1),
    ],
)
def test_a_point_has_its_time_and_its_memory(name: str, at: int, tmp_path: Path) -> None:
    found = scaling.SCALES[name].measure(at, tmp_path)
    assert found["CPU seconds"] > 0
    assert 0 < found["peak MB"] < 1_000


@pytest.mark.slow
@pytest.mark.alone
def test_a_trial_costs_the_driver_some_time_under_either_sampler(tmp_path: Path) -> None:
    found = scaling.SCALES["driver"].measure(200, tmp_path)
    assert len(found) == 2
    assert min(found.values()) > 0


@pytest.mark.slow
@pytest.mark.alone
def test_opening_a_listed_data_set_is_quick_and_small(tmp_path: Path) -> None:
    found = scaling.SCALES["pairs-listed"].measure(30_000, tmp_path)
    assert found["record, MB"] > 1
    assert 0 < found["seconds, later"] < found["seconds, first on a machine"] + 1 < 10
    assert 0 < found["peak MB, first"] < 200
