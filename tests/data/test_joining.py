"""Rows of one image become one entry, and an id names one image."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from raydd.data.images import FileImage
from raydd.data.joining import join_files, join_images
from raydd.data.listing import Entry


@dataclass(frozen=True)
class Bytes:
    name: str

    def read(self) -> bytes:
        return self.name.encode()

    def stamp(self) -> str:
        return self.name


def row(split: Any, name: str, caption: str, *, named: bool = True) -> Entry:
    return Entry(split, name, Bytes(name), (caption,), named=named)


def digests(*numbers: int) -> np.ndarray:
    return np.array([[number, number] for number in numbers], np.int64).reshape(-1, 2)


def test_rows_of_a_file_are_joined_in_their_order() -> None:
    image = FileImage("a", "/a")
    rows = [Entry("train", "a", image, (text,)) for text in ("one", "two")]
    assert [entry.captions for entry in join_files(rows)] == [("one", "two")]


def test_the_same_bytes_with_ids_of_their_own_are_two_images() -> None:
    entries, _, problems = join_images([row("train", "a", "one"), row("train", "b", "two")], digests(1, 1))
    assert [entry.id for entry in entries] == ["a", "b"]
    assert problems == []


def test_rows_whose_images_were_not_read_are_joined_by_their_ids_alone() -> None:
    rows = [row("train", "a", "one"), row("train", "a", "two"), row("train", "0", "x", named=False)]
    rows.append(row("train", "1", "x", named=False))
    assert [entry.id for entry in join_images(rows, digests(0, 0, 0, 0))[0]] == ["a", "0", "1"]


def test_the_held_out_image_of_an_id_is_kept() -> None:
    entries, kept, problems = join_images([row("train", "a", "one"), row("test", "a", "two")], digests(1, 2))
    assert [(entry.split, entry.captions) for entry in entries] == [("test", ("two",))]
    assert kept.tolist() == [[2, 2]]
    assert [problem.detail for problem in problems] == ["listed in train, but in test already"]


@given(st.lists(st.tuples(st.sampled_from(["train", "val", "test"]), st.integers(1, 4)), max_size=20))
def test_no_caption_is_lost_and_no_image_is_there_twice(rows: list[tuple[str, int]]) -> None:
    entries = [row(split, f"row {n}", str(n), named=False) for n, (split, _) in enumerate(rows)]
    joined, kept, problems = join_images(entries, digests(*(digest for _, digest in rows)))
    assert problems == []
    assert sorted(text for entry in joined for text in entry.captions) == sorted(map(str, range(len(rows))))
    images = [(entry.split, *digest) for entry, digest in zip(joined, kept.tolist(), strict=True)]
    assert len(set(images)) == len(images)
