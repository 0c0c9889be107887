import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from raydd.data.encoders.weights import content_identity, copy_state, load_state, path_of, seed_of, seeded
from raydd.errors import ConfigError, DataError, RayddError


def network() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))


def test_seed_and_path_are_told_apart(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    file.touch()
    assert (seed_of("random:12", "s"), path_of("random:12", "s")) == (12, None)
    assert (seed_of(str(file), "s"), path_of(str(file), "s")) == (None, file)
    assert (seed_of("", "s"), path_of("", "s")) == (None, None)
    with pytest.raises(ConfigError, match=r"encoders.image_weights is 'random:x'"):
        seed_of("random:x", "encoders.image_weights")
    with pytest.raises(DataError, match="there is no"):
        path_of(str(tmp_path / "none.pth"), "encoders.image_weights")


@pytest.mark.parametrize("name", ["pipe", "zero", "~nobody-here/x"])
def test_weights_that_would_never_end_are_refused_by_name(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    path = name if name.startswith("~") else str(tmp_path / name)
    with pytest.raises(RayddError, match=rf"encoders\.image_weights.*{name}"):
        path_of(path, "encoders.image_weights")


def test_a_seed_gives_the_same_weights_and_leaves_the_random_state() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    drawn = []
    for seed in (1, 1, 2):
        with seeded(seed):
            drawn.append(network()[0].weight)
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_identity_follows_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"one")
    first = content_identity(tmp_path / "a")
    folder = content_identity(tmp_path)
    (tmp_path / "b").write_bytes(b"one")
    assert content_identity(tmp_path / "b") == first
    assert content_identity(tmp_path) != folder
    (tmp_path / "a").write_bytes(b"other")
    assert content_identity(tmp_path / "a") != first


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_weights_go_in_by_name_whatever_their_order(tmp_path: Path, suffix: str) -> None:
    given, path = network(), tmp_path / f"weights.{suffix}"
    state = dict(reversed(given.state_dict().items()))
    save_file(state, path) if suffix == "safetensors" else torch.save({"state_dict": state}, path)
    target = network().requires_grad_(False)
    copy_state(target, load_state(path), path)
    assert all(torch.equal(a, b) for a, b in zip(given.parameters(), target.parameters(), strict=True))


def test_weights_of_other_names_go_in_by_order() -> None:
    given, target = network(), network().requires_grad_(False)
    state = {f"other.{number}": value for number, value in enumerate(given.state_dict().values()) if value.ndim}
    state["classifier"] = torch.zeros(10, 4)
    copy_state(target, state, Path("w"))
    assert all(torch.equal(a, b) for a, b in zip(given.parameters(), target.parameters(), strict=True))


def test_weights_that_do_not_fit_are_refused() -> None:
    state = {name: value for name, value in network().state_dict().items() if value.ndim}
    with pytest.raises(DataError, match=r"0.weight has shape \(2,\), wanted \(4, 3, 1, 1\)"):
        copy_state(network(), state | {"0.weight": torch.zeros(2)}, Path("w"))
    with pytest.raises(DataError, match="is missing"):
        copy_state(network(), {"a": state["0.weight"]}, Path("w"))


class _Trap:
    def __reduce__(self):
        return (print, ("unpickled",))


@pytest.mark.parametrize("content", [b"", b"not weights", pickle.dumps(_Trap(), protocol=2)])
def test_a_file_that_is_no_state_dict_is_refused(
    tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("w.pth", "w.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match="cannot be read as weights"):
            load_state(tmp_path / name)
    assert "unpickled" not in capsys.readouterr().out
    torch.save({"epoch": 3}, tmp_path / "w.pth")
    with pytest.raises(DataError, match="no state dict"):
        load_state(tmp_path / "w.pth")


def test_code_among_the_tensors_of_a_pytorch_file_does_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"weight": torch.zeros(2), "bias": _Trap()}, tmp_path / "w.pth")
    with pytest.raises(DataError, match="cannot be read as weights"):
        load_state(tmp_path / "w.pth")
    assert "unpickled" not in capsys.readouterr().out
