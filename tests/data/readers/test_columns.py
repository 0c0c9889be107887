"""Which columns are taken for images, captions, ids, splits and groups, and what a row becomes."""

from typing import Any

import pytest

from raydd.config import DataConfig
from raydd.data.images import FileImage
from raydd.data.listing import Entry
from raydd.data.readers.columns import find_columns, row_entry


def entry_of(row: dict[str, Any]) -> Entry:
    columns = find_columns(tuple(row), DataConfig(), "table.csv")
    return row_entry(row, columns, FileImage("a.png", "/a.png"), "row 0", "train", "table.csv")


@pytest.mark.parametrize("case", [str.lower, str.title, str.upper])
def test_every_column_is_found_regardless_of_case(case: Any) -> None:
    row = {case(name): value for name, value in [("image", "a.png"), ("caption", "one"), ("split", "test")]}
    entry = entry_of({**row, case("image_id"): 7, case("group"): "red"})
    assert (entry.split, entry.id, entry.captions, entry.group) == ("test", "7", ("one",), "red")


@pytest.mark.parametrize("case", [str.lower, str.title, str.upper])
def test_numbered_captions_are_found_regardless_of_case(case: Any) -> None:
    captions = {case(f"caption_{number}"): f"text {number}" for number in (10, 2, 1)}
    assert entry_of({"image": "a.png", **captions}).captions == ("text 1", "text 2", "text 10")


def test_a_column_that_only_contains_the_word_is_another_one() -> None:
    entry = entry_of({"image": "a.png", "caption": "one", "split_by": "test", "groups": "red"})
    assert (entry.split, entry.group) == ("train", "")


@pytest.mark.parametrize(("value", "group"), [(0, "0"), (False, "False"), ("red", "red"), ("", ""), (None, "")])
def test_only_an_empty_group_is_none(value: Any, group: str) -> None:
    assert entry_of({"image": "a.png", "caption": "one", "group": value}).group == group
