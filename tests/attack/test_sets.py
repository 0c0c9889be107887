"""Synthetic sets from elsewhere: names that are markup, files that are changed, folders that are none."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import yaml
from attacking import attack
from hypothesis import given
from hypothesis import strategies as st
from made_sets import ENCODERS, made_set

from raydd.export.cards import plain
from raydd.export.exporting import exported_file_names
from raydd.store.seals import KEY, PLACE, seal_json

_HOSTILE = "[/b]<script>alert(1)</script> ](http://x) `x` | \x1b[2J\n# raydd"


def copied(folder: Path) -> Path:
    """A set of three hundredths of a second, whose folder a test may change."""
    shutil.copytree(made_set().folder, folder / "set")
    return folder / "set"


def changed(folder: Path, change: Any) -> None:
    """The manifest after a change, sealed as raydd seals."""
    file = folder / "manifest.json"
    content = json.loads(file.read_text())
    place = content.pop(PLACE)
    del content[KEY]
    change(content)
    file.write_bytes(seal_json(content, place))


def test_a_name_of_markup_stays_text_on_the_terminal_the_page_and_the_card(tmp_path: Path) -> None:
    folder = copied(tmp_path)

    def rename(content: Any) -> None:
        content["facts"]["data"]["name"] = _HOSTILE

    changed(folder, rename)
    out = tmp_path / "out"
    said = attack("export", "--set", folder, *ENCODERS, "--place.home", tmp_path / "home", "--to", "png", out)
    assert said.is_in_order()
    assert said.code == 0, said
    card = (out / "README.md").read_text()
    assert "<script>" not in card.replace("\\<script\\>", "").partition("---\n\n#")[2]
    assert "\x1b" not in card
    assert "\n# raydd" not in card
    head = card.split("---\n")[1]
    assert set(yaml.safe_load(head)) >= {"license", "pretty_name"}


@given(st.text(max_size=40))
@hypothesis.settings(max_examples=60)
def test_any_text_is_one_line_of_a_card(text: str) -> None:
    line = plain(f"name {text}")
    assert "\n" not in line
    for mark in "`<>|[]*":
        assert line.count(mark) == line.count(f"\\{mark}")


def test_what_is_pushed_is_what_was_written() -> None:
    files = {"pairs.json": "", "images/*.png": "", "README.md": ""}
    assert exported_file_names(files, 2) == ["pairs.json", "README.md", "images/000.png", "images/001.png"]
    assert exported_file_names({"README.md": ""}, 2) == ["README.md"]


@pytest.mark.parametrize("command", ["report", "evaluate", "export", "search"])
def test_a_set_in_the_home_of_nobody_is_refused(tmp_path: Path, command: str) -> None:
    given = ["a dog"] if command == "search" else []
    said = attack(command, *given, "--set", "~nobody-here/set", "--place.home", tmp_path / "home")
    assert said.is_refusal_of("~nobody-here/set")


@pytest.mark.parametrize("command", ["report", "evaluate", "export", "search"])
@pytest.mark.parametrize("what", ["nothing", "file", "pipe", "empty", "nested", "[/b]"])
def test_a_folder_that_is_no_set_is_refused_by_name(tmp_path: Path, command: str, what: str) -> None:
    folder = tmp_path / ("[b]" if what == "[/b]" else "set")
    if what == "file":
        folder.write_text("x")
    elif what != "nothing":
        folder.mkdir()
    if what == "pipe":
        os.mkfifo(folder / "manifest.json")
    elif what == "nested":
        (folder / "manifest.json").write_text("[" * 100_000)
    given = ["a dog"] if command == "search" else []
    assert attack(command, *given, "--set", folder, "--place.home", tmp_path / "home").is_refusal_of(str(folder))


_NESTED = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.text(max_size=5), inner, max_size=2)),
    max_leaves=4,
)


@given(data=st.data())
@hypothesis.settings(max_examples=8, phases=[hypothesis.Phase.generate])
def test_a_manifest_that_says_anything_is_taken_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    tmp_path = tmp_path_factory.mktemp("set")
    folder = copied(tmp_path)

    def put(content: Any) -> None:
        facts = content["facts"]
        facts[data.draw(st.sampled_from(sorted(facts)))] = data.draw(_NESTED)

    changed(folder, put)
    said = attack("export", "--set", folder, *ENCODERS, "--place.home", tmp_path / "home", tmp_path / "out")
    assert said.is_in_order()
    if said.code:
        assert said.is_refusal_of(str(folder))
