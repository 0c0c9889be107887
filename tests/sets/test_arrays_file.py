"""Files of a stranger's arrays: no code in them is run, and what is damaged or too large is refused."""

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from foreign_sets import like_lors, said_of_lors, write

from raydd.errors import RayddError, RecordError
from raydd.sets.arrays_file import is_number
from raydd.sets.foreign import read_foreign


class Runs:
    """Code that a pickle would run."""

    def __reduce__(self) -> Any:
        return os.system, ("touch ran",)


@pytest.mark.parametrize("how", ["torch", "torch before 1.6", "pickle", "numpy"])
def test_no_pickle_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str):
    monkeypatch.chdir(tmp_path)
    suffix = ".npz" if how == "numpy" else ".pt"
    description, content = write(tmp_path, {}, suffix, **said_of_lors()), {**like_lors(), "more": Runs()}
    file = tmp_path / f"distilled_3000{suffix}"
    if how == "numpy":
        np.savez(file, allow_pickle=True, image=np.array([Runs()], dtype=object))
    elif how == "pickle":
        file.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=how == "torch")
    with pytest.raises(RecordError, match="cannot be read"):
        read_foreign(description)
    assert not (tmp_path / "ran").exists()


def test_an_archive_that_unpacks_to_too_much_is_refused_before_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("raydd.sets.arrays_file._MOST_BYTES", 2**20)
    description = write(tmp_path, {}, ".npz", **said_of_lors())
    with zipfile.ZipFile(tmp_path / "distilled_3000.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("image.npy", bytes(2**21))
    with pytest.raises(RecordError, match="unpacks to 2,097,152 bytes, over the limit of 1,048,576"):
        read_foreign(description)


@pytest.mark.parametrize("suffix", [".pt", ".npz", ".safetensors"])
def test_a_damaged_missing_or_odd_file_is_refused(tmp_path: Path, suffix: str):
    description = write(tmp_path, {"image": torch.zeros(4, 3, 16, 16)}, suffix, **said_of_lors())
    file = tmp_path / f"distilled_3000{suffix}"
    content = file.read_bytes()
    for wrong in (b"", b"rubbish", content[: len(content) // 2], content[:-9], bytes(len(content))):
        file.write_bytes(wrong)
        with pytest.raises(RayddError):
            read_foreign(description)
    file.unlink()
    with pytest.raises(RecordError, match="No such file"):
        read_foreign(description)
    os.mkfifo(file)
    with pytest.raises(RecordError, match="a pipe"):
        read_foreign(description)


def test_a_file_of_no_dictionary_is_refused(tmp_path: Path):
    description = write(tmp_path, {}, **said_of_lors())
    torch.save([torch.zeros(4)], tmp_path / "distilled_3000.pt")
    with pytest.raises(RecordError, match="holds a list, but must hold a dictionary"):
        read_foreign(description)


@pytest.mark.parametrize(
    "image",
    [
        torch.zeros(4, 3, 16, 16).to_sparse(),
        torch.quantize_per_tensor(torch.zeros(4, 3, 16, 16), 0.1, 0, torch.qint8),
        torch.zeros(4, 3, 16, 16, device="meta"),
        torch.full((4, 3, 16, 16), 1e300, dtype=torch.float64),
    ],
)
def test_arrays_that_no_student_can_read_are_refused(tmp_path: Path, image: torch.Tensor):
    description = write(tmp_path, {"image": image}, ".pt", **said_of_lors())
    with pytest.raises(RecordError):
        read_foreign(description)


def test_an_integer_beyond_the_largest_float_is_no_number():
    assert not is_number(10**400)
