from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from raydd.data.feature_rows import CaptionRows, FeatureRows, map_shard
from raydd.errors import RecordError

VALUES = torch.randn(11, 3, 5, generator=torch.Generator().manual_seed(0)).half()


@pytest.mark.parametrize("per_shard", [1, 4, 11, 20])
def test_rows_are_gathered_across_shards(per_shard: int) -> None:
    rows = FeatureRows(VALUES.split(per_shard), per_shard)
    assert rows.shape == (11, 3, 5)
    wanted, views = torch.tensor([10, 0, 3, 3, 7, 4]), torch.tensor([0, 2, 1, 0, 2, 1])
    got = rows.gather(wanted, views)
    assert got.dtype == torch.float32
    assert torch.equal(got, VALUES[wanted, views].float())
    assert torch.equal(rows.gather(wanted, 2), VALUES[wanted, 2].float())
    assert rows.gather(torch.tensor([], dtype=torch.long), 0).shape == (0, 5)


def test_a_centre_is_subtracted_from_each_row() -> None:
    centre, wanted = torch.arange(5.0), torch.tensor([10, 0, 3])
    rows = FeatureRows(VALUES.split(4), 4, centre)
    assert torch.equal(rows.gather(wanted, 1), VALUES[wanted, 1].float() - centre)
    assert torch.equal(rows.on("cpu").gather(wanted, 1), rows.gather(wanted, 1))


@given(st.lists(st.tuples(st.integers(0, 10), st.integers(0, 2)), min_size=1), st.integers(1, 12))
def test_any_rows_of_any_sharding(asked: list[tuple[int, int]], per_shard: int) -> None:
    wanted, views = torch.tensor(asked).T
    assert torch.equal(
        FeatureRows(VALUES.split(per_shard), per_shard).gather(wanted, views), VALUES[wanted, views].float()
    )


@given(st.lists(st.integers(0, 10), min_size=1), st.integers(1, 12))
def test_any_captions_of_any_sharding(asked: list[int], per_shard: int) -> None:
    values, wanted = VALUES[:, 0], torch.tensor(asked)
    captions = CaptionRows(values.split(per_shard), per_shard)
    assert torch.equal(captions[wanted], values[wanted])
    assert torch.equal(captions.whole(), values)
    assert (len(captions), captions.width) == values.shape


def test_a_row_that_is_not_there_is_an_error() -> None:
    with pytest.raises(IndexError):
        FeatureRows(VALUES.split(4), 4).gather(torch.tensor([11]), 0)


@pytest.mark.parametrize("per_shard", [4, 11])
def test_a_view_that_is_not_there_is_an_error(per_shard: int) -> None:
    with pytest.raises(IndexError):
        FeatureRows(VALUES.split(per_shard), per_shard).gather(torch.tensor([0]), 3)


def saved(path: Path, tensor: torch.Tensor) -> Path:
    save_file({"images": tensor}, path)
    return path


def test_a_whole_shard_is_mapped(tmp_path: Path) -> None:
    shard = map_shard(saved(tmp_path / "s.safetensors", VALUES), "images", (11, None, 5))
    assert torch.equal(shard, VALUES)


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-10], lambda b: b[:5], lambda b: b + b"x", lambda b: b"", lambda b: b"\xff" * 99]
)
def test_a_damaged_shard_is_named(tmp_path: Path, damage) -> None:
    path = saved(tmp_path / "images-00003.safetensors", VALUES)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(RecordError, match=r"images-00003.safetensors is damaged .*raydd features"):
        map_shard(path, "images", (11, 3, 5))


@pytest.mark.parametrize(
    ("name", "tensor"), [("images", VALUES[:5]), ("images", VALUES.float()), ("images", VALUES[0]), ("other", VALUES)]
)
def test_a_shard_of_something_else_is_refused(tmp_path: Path, name: str, tensor: torch.Tensor) -> None:
    save_file({name: tensor.contiguous()}, tmp_path / "s.safetensors")
    with pytest.raises(RecordError, match=r"s.safetensors"):
        map_shard(tmp_path / "s.safetensors", "images", (11, 3, 5))


def test_mapping_reads_nothing_until_it_is_gathered(tmp_path: Path) -> None:
    import psutil

    size = 200 * 2**20
    path = saved(tmp_path / "big.safetensors", torch.zeros(size // 2048, 1, 1024, dtype=torch.float16))
    before = psutil.Process().memory_info().rss
    shard = map_shard(path, "images", (None, 1, 1024))
    FeatureRows((shard,), len(shard)).gather(torch.arange(0, len(shard), 5000), 0)
    assert psutil.Process().memory_info().rss - before < size / 4
