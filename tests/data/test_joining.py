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
    entries, kept, problems = join_images([row("train", "a", "one"), row("test", "a", "two")], digests(2, 2))
    assert [(entry.split, entry.captions) for entry in entries] == [("test", ("two",))]
    assert kept.tolist() == [[2, 2]]
    assert [problem.detail for problem in problems] == ["listed in train, but in test already"]


def test_ids_that_start_again_in_each_split_get_the_split_before_them() -> None:
    rows = [row("test", "0", "a"), row("train", "0", "b"), row("train", "1", "c"), row("val", "0", "d")]
    entries, kept, problems = join_images([*rows, row("test", "test/0", "e")], digests(1, 2, 3, 4, 5))
    assert [(entry.split, entry.id, entry.captions[0]) for entry in entries] == [
        ("test", "test/test/0", "a"),  # test/0 is an image of the data set
        ("train", "0", "b"),
        ("train", "1", "c"),
        ("val", "val/0", "d"),
        ("test", "test/0", "e"),
    ]
    assert [entry.image.name for entry in entries] == ["0", "0", "1", "0", "test/0"]
    assert kept[:, 0].tolist() == [1, 2, 3, 4, 5]
    assert [(fault.kind, fault.which, fault.left_out) for fault in problems] == [
        ("duplicate id", "test/test/0", False),
        ("duplicate id", "val/0", False),
    ]
    assert problems[0].detail == "train has another image with the id 0"


def test_of_images_of_an_id_in_a_split_the_first_that_no_other_split_has_is_kept() -> None:
    rows = [row("train", "a", "one"), row("train", "a", "two"), row("train", "a", "three"), row("test", "a", "four")]
    entries, _, problems = join_images(rows, digests(1, 2, 3, 1))
    assert [(entry.split, entry.id, entry.captions) for entry in entries] == [
        ("train", "a", ("two",)),
        ("test", "test/a", ("four",)),
    ]
    assert [(fault.detail, fault.left_out) for fault in problems] == [
        ("listed in train, but in test already", True),
        ("a is another image than a", True),
        ("train has another image with the id a", False),
    ]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["train", "val", "test"]),
            st.sampled_from(["a", "b", "test/a", "val/a"]),
            st.integers(1, 3),
            st.booleans(),
        ),
        max_size=20,
    )
)
def test_every_image_that_stays_has_an_id_of_its_own(rows: list[tuple[str, str, int, bool]]) -> None:
    entries = [row(split, name, str(n), named=named) for n, (split, name, _, named) in enumerate(rows)]
    joined, kept, problems = join_images(entries, digests(*(digest for *_, digest, _ in rows)))
    assert len(kept) == len(joined) == len({entry.id for entry in joined})
    stay = {text for entry in joined for text in entry.captions}
    ids = {row[1] for row in rows}
    assert {entry.id for entry in joined} - ids == {
        fault.which for fault in problems if not fault.left_out and fault.which not in ids
    }
    if not problems:
        assert stay == {str(n) for n in range(len(rows))}


@given(st.lists(st.tuples(st.sampled_from(["train", "val", "test"]), st.integers(1, 4)), max_size=20))
def test_no_caption_is_lost_and_no_image_is_there_twice(rows: list[tuple[str, int]]) -> None:
    entries = [row(split, f"row {n}", str(n), named=False) for n, (split, _) in enumerate(rows)]
    joined, kept, problems = join_images(entries, digests(*(digest for _, digest in rows)))
    assert problems == []
    assert sorted(text for entry in joined for text in entry.captions) == sorted(map(str, range(len(rows))))
    images = [(entry.split, *digest) for entry, digest in zip(joined, kept.tolist(), strict=True)]
    assert len(set(images)) == len(images)
