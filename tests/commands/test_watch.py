import pytest

from raydd.cli import main


@pytest.mark.parametrize("seconds", ["-1", "nan", "1e300"])
def test_seconds_between_updates_are_checked(seconds: str, capsys: pytest.CaptureFixture[str]):
    assert main(["watch", "--every", seconds]) == 2
    assert "--every" in (said := capsys.readouterr().err)
    assert "0.1 to 86 400 seconds" in said
