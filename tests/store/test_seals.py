"""Seals: any flipped bit and any wrong place is seen, any reader of the format reads it, equal content: equal files."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load, save

from raydd.errors import RecordError
from raydd.store.seals import fault_of, require_intact, require_intact_file, seal_json, seal_tensors

TENSORS = {"b": torch.arange(5), "a": torch.ones(3, 2).half()}
PLACE, JSON_PLACE = "stage/0123abcd/x.safetensors", "stage/0123abcd/x.json"
SEALED = seal_tensors(save(TENSORS), {"facts": '{"why":"test"}'}, PLACE)


def test_a_sealed_file_is_a_safetensors_file(tmp_path: Path):
    assert {name: tensor.tolist() for name, tensor in load(SEALED).items()} == {
        name: tensor.tolist() for name, tensor in TENSORS.items()
    }
    (tmp_path / "x").write_bytes(SEALED)
    with safe_open(tmp_path / "x", framework="pt") as file:
        assert json.loads(file.metadata()["facts"]) == {"why": "test"}
    assert seal_tensors(save(TENSORS), {"facts": '{"why":"test"}'}, PLACE) == SEALED
    require_intact(SEALED, "x", PLACE)
    require_intact_file(tmp_path / "x", "x", PLACE)


@given(st.integers(0, len(SEALED) * 8 - 1))
def test_no_flipped_bit_is_accepted(bit: int):
    content = bytearray(SEALED)
    content[bit // 8] ^= 1 << bit % 8
    with pytest.raises(RecordError, match=r"^x (is damaged|was not written)"):
        require_intact(bytes(content), "x", PLACE)


@given(st.integers(0, len(SEALED) - 1))
def test_a_file_cut_anywhere_is_damaged(length: int):
    with pytest.raises(RecordError, match=r"^x is damaged"):
        require_intact(SEALED[:length], "x", PLACE)


def test_a_file_larger_than_a_piece_is_checked_to_its_end(tmp_path: Path):
    content = bytearray(seal_tensors(save({"a": torch.zeros(2_000_000)}), {}, PLACE))
    (tmp_path / "x").write_bytes(content)
    require_intact_file(tmp_path / "x", "x", PLACE)
    content[-1] ^= 1
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(RecordError, match="x is damaged"):
        require_intact_file(tmp_path / "x", "x", PLACE)


def test_json_is_sealed_too():
    content = seal_json({"a": [1, 2]}, JSON_PLACE)
    assert json.loads(content) == {"sha256": json.loads(content)["sha256"], "place": JSON_PLACE, "a": [1, 2]}
    require_intact(content, "x", JSON_PLACE)
    with pytest.raises(RecordError, match=r"^x is damaged"):
        require_intact(content[:-4] + b"9" + content[-3:], "x", JSON_PLACE)
    with pytest.raises(RecordError, match=r"^x is damaged: its checksum is not where"):
        require_intact(content.replace(b"{", b'{"b": 1,', 1), "x", JSON_PLACE)
    with pytest.raises(ValueError, match="keys of the seal"):
        seal_json({"place": "here"}, JSON_PLACE)


@pytest.mark.parametrize(("content", "place"), [(SEALED, PLACE), (seal_json({"a": 1}, JSON_PLACE), JSON_PLACE)])
def test_a_file_of_another_place_is_refused_even_if_its_place_is_rewritten(content: bytes, place: str):
    other = place.replace("0123abcd", "0123abce")
    with pytest.raises(
        RecordError, match=rf"^x belongs to {place}: somebody put it here\. Delete it and make it again"
    ):
        require_intact(content, "x", other)
    with pytest.raises(RecordError, match=r"^x is damaged"):
        require_intact(content.replace(b"0123abcd", b"0123abce"), "x", other)


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (b'{"a": 1}', JSON_PLACE),
        (b"{}", JSON_PLACE),
        (b"[]", JSON_PLACE),
        (save(TENSORS), PLACE),
        (save(TENSORS, {"why": "test"}), PLACE),
    ],
)
def test_a_sealable_file_without_a_seal_is_refused(content: bytes, place: str):
    with pytest.raises(RecordError, match=r"^x was not written by this version of raydd, or its checksum was removed"):
        require_intact(content, "x", place)


def test_other_formats_are_held_to_the_checksum_that_is_listed():
    content = b"\x89PNG"
    require_intact(content, "x", "stage/0123abcd/x.png")
    require_intact(content, "x", "stage/0123abcd/x.png", hashlib.sha256(content).hexdigest())
    with pytest.raises(RecordError, match=r"^x is damaged"):
        require_intact(content, "x", "stage/0123abcd/x.png", hashlib.sha256(content + b"x").hexdigest())


@pytest.mark.parametrize(
    ("pieces", "place", "sha256", "kind"),
    [
        ([SEALED], PLACE, "", None),
        ([SEALED], PLACE.replace("0123", "0124"), "", "foreign"),
        ([SEALED[:-1]], PLACE, "", "damaged"),
        ([SEALED[:-1] + b"!"], PLACE, "", "damaged"),
        ([SEALED], PLACE, "0" * 64, "damaged"),
        ([b"{", *[b" "] * 3, b"}"], JSON_PLACE, "", "unsealed"),
        ([seal_json({}, JSON_PLACE).replace(b"{", b'{"a": 1,', 1)], JSON_PLACE, "", "damaged"),
        ([b"{"], JSON_PLACE, "", "damaged"),
        ([], JSON_PLACE, "", "damaged"),
        ([], PLACE, "", "damaged"),
        ([], "stage/0123abcd/x.png", hashlib.sha256(b"").hexdigest(), None),
        ([b"\x89", b"PNG"], "stage/0123abcd/x.png", hashlib.sha256(b"\x89PNG").hexdigest(), None),
    ],
)
def test_each_fault_has_its_kind_however_the_file_is_cut(pieces: list, place: str, sha256: str, kind: str | None):
    fault = fault_of(pieces, place, sha256)
    assert (fault and fault.kind) == kind
