"""Seals: any flipped bit is seen, files read as they always did, equal content gives equal files."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load, save

from raydd.errors import RecordError
from raydd.store.seals import require_intact, require_intact_file, seal_json, seal_tensors

TENSORS = {"b": torch.arange(5), "a": torch.ones(3, 2).half()}
SEALED = seal_tensors(save(TENSORS), {"facts": '{"why":"test"}'})


def test_a_sealed_file_is_a_safetensors_file(tmp_path: Path):
    assert {name: tensor.tolist() for name, tensor in load(SEALED).items()} == {
        name: tensor.tolist() for name, tensor in TENSORS.items()
    }
    (tmp_path / "x").write_bytes(SEALED)
    with safe_open(tmp_path / "x", framework="pt") as file:
        assert json.loads(file.metadata()["facts"]) == {"why": "test"}
    assert seal_tensors(save(TENSORS), {"facts": '{"why":"test"}'}) == SEALED
    require_intact(SEALED, "x")
    require_intact_file(tmp_path / "x", "x")


@given(st.integers(0, len(SEALED) * 8 - 1))
def test_no_flipped_bit_is_read_as_something_else(bit: int):
    content = bytearray(SEALED)
    content[bit // 8] ^= 1 << bit % 8
    try:
        require_intact(bytes(content), "x")
    except RecordError as error:
        assert "x is damaged" in str(error)  # noqa: PT017
        return
    # The flip hid the seal itself: then the file is no safetensors file, or all its tensors are as they were.
    try:
        read = load(bytes(content))
    except Exception:
        return
    assert {name: tensor.tolist() for name, tensor in read.items()} == {
        name: tensor.tolist() for name, tensor in TENSORS.items()
    }


def test_a_file_larger_than_a_piece_is_checked_to_its_end(tmp_path: Path):
    content = bytearray(seal_tensors(save({"a": torch.zeros(2_000_000)}), {}))
    (tmp_path / "x").write_bytes(content)
    require_intact_file(tmp_path / "x", "x")
    content[-1] ^= 1
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(RecordError, match="x is damaged"):
        require_intact_file(tmp_path / "x", "x")


def test_json_is_sealed_too_and_a_file_without_a_seal_is_taken_as_it_is():
    content = seal_json({"a": [1, 2]})
    assert json.loads(content)["a"] == [1, 2]
    require_intact(content, "x")
    with pytest.raises(RecordError, match="x is damaged"):
        require_intact(content.replace(b"2", b"3", 1) if b"2" not in content[:90] else content[:-3] + b"9 }", "x")
    require_intact(b'{"a": 1}', "x")
    require_intact(save(TENSORS), "x")
    require_intact(b"", "x")
