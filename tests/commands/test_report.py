from pathlib import Path

import pytest
from made_sets import ENCODERS, made_set

from raydd.cli import main


def test_a_page_of_the_set_in_the_current_folder_is_named_after_the_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    made = made_set("features")
    monkeypatch.chdir(made.folder)
    places = ["--place.home", str(tmp_path), "--place.store", made.store.root]
    assert main(["report", "--set", ".", *ENCODERS, *places]) == 0
    assert [path.name for path in (tmp_path / "reports").iterdir()] == [f"{made.folder.name}.html"]


def test_the_name_of_a_comparison_leads_to_no_other_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "compare.csv").write_text("data\n")
    assert main(["report", "--comparison", "../x", "--place.home", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("raydd: --comparison is '../x', but must be 1 to 120 letters")
