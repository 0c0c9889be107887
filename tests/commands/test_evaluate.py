import json
from pathlib import Path

import pytest
from foreign_sets import like_lors, said_of_lors, write
from made_sets import flags, made_set

from raydd.cli import main


def test_the_file_and_the_title_say_how_a_set_was_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    made, file = made_set(), tmp_path / "out.json"
    asked = ["--evaluate.choice", "best-on-split", "--evaluate.split", "test", "--evaluate.baselines"]
    assert main(["evaluate", "--set", str(made.folder), "--json", str(file), *flags(made, *asked)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "6 pairs from tiny, test, 2 student seeds, best of 6 checks on test itself, percent" in shown
    how = json.loads(file.read_text())["made"]
    assert how["selection"].startswith("Best of 6 checks of each student on test")
    assert how["settings"]["students.epochs"] == 3
    assert how["settings"]["distill.steps"] == 6
    assert "place.home" not in how["settings"]


def test_the_file_of_an_outside_set_has_no_settings_of_a_distillation(tmp_path: Path):
    description, file = write(tmp_path, like_lors(), **said_of_lors()), tmp_path / "out.json"
    asked = ["evaluate", "--outside", str(description), "--json", str(file), "--evaluate.baselines"]
    assert main([*asked, *flags(made_set(), "--distill.minibatch", "6")]) == 0
    how = json.loads(file.read_text())["made"]
    assert set(how) == {"raydd", "settings"}
    assert how["settings"]["students.epochs"] == 3
    assert not any(name.startswith(("distill.", "pixels.", "place.")) for name in how["settings"])
