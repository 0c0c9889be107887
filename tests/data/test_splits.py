from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydd.data.images import FileImage
from raydd.data.listing import Entry, Split
from raydd.data.splits import cut
from raydd.errors import DataError


def entry(id: str, split: Split = "train", group: str = "") -> Entry:
    return Entry(split, id, FileImage(id, id), ("a caption",), group)


@st.composite
def listings(draw: st.DrawFn) -> list[Entry]:
    """Entries of which at least two groups are in train; groups of up to a few entries, some named as an id is."""
    groups = draw(st.lists(st.sampled_from(["", "red", "blue", "image 0"]), min_size=2, max_size=30))
    others = draw(st.lists(st.just("test"), max_size=3))
    entries = [entry(str(i), group=group) for i, group in enumerate(groups)]
    entries += [entry(f"t{i}", "test") for i, _ in enumerate(others)]
    return [*entries, entry("last")]


@given(listings(), st.floats(0.01, 0.5), st.integers(0, 1000))
def test_a_cut_is_a_partition_that_keeps_groups_together(entries: list[Entry], share: float, seed: int) -> None:
    after = cut(entries, "val", share, seed)
    assert [each.id for each in after] == [each.id for each in entries]
    assert all(new.split in {old.split, "val"} for old, new in zip(entries, after, strict=True))
    assert [each for each in after if each.split == "test"] == [each for each in entries if each.split == "test"]
    assert {"train", "val"} <= {each.split for each in after}
    for group in ("red", "blue", "image 0"):
        assert len({each.split for each in after if each.group == group}) <= 1
    assert cut(entries, "val", share, seed) == after


def test_the_share_is_met() -> None:
    entries = [entry(str(i)) for i in range(200)]
    assert sum(each.split == "val" for each in cut(entries, "val", 0.1, 0)) == 20


@pytest.mark.parametrize("seed", range(8))
def test_a_group_larger_than_the_share_is_taken_only_if_no_smaller_one_is_left(seed: int) -> None:
    half = [entry(f"large {i}", group="large") for i in range(10)]
    pairs = [entry(f"small {i}", group=f"small {i // 2}") for i in range(10)]
    after = cut([*half, *pairs], "val", 0.1, seed)
    assert [each.group for each in after if each.split == "val"] in [[f"small {i}"] * 2 for i in range(5)]
    after = cut([*half, *(each for each in pairs if each.group == "small 0")], "val", 0.1, seed)
    assert [each.group for each in after if each.split == "val"] == ["small 0"] * 2


def test_what_is_cut_of_groups_within_the_share_is_fixed() -> None:
    entries = [entry(str(i), group=f"g{i * i % 19}" if i % 3 else "") for i in range(60)]
    assert max(Counter(each.group for each in entries if each.group).values()) <= 0.2 * len(entries)
    cut_ids = " ".join(each.id for each in cut(entries, "val", 0.2, 3) if each.split == "val")
    assert cut_ids == "1 5 14 15 20 37 43 48 52 56 57 58"


def test_another_seed_cuts_another_split() -> None:
    entries = [entry(str(i)) for i in range(50)]
    assert cut(entries, "val", 0.2, 0) != cut(entries, "val", 0.2, 1)


def test_an_entry_more_moves_few_others() -> None:
    entries = [entry(str(i)) for i in range(100)]
    before = {each.id for each in cut(entries, "val", 0.1, 0) if each.split == "val"}
    after = {each.id for each in cut([entry("new"), *entries], "val", 0.1, 0) if each.split == "val"}
    assert len(before - after) <= 1


def test_one_group_cannot_be_cut() -> None:
    with pytest.raises(DataError, match=r"no val split, and none can be cut: 2 training images are one group"):
        cut([entry("a", group="g"), entry("b", group="g")], "val", 0.1, 0)
