import json
from pathlib import Path

import pytest
from layouts import Picture, write_karpathy

from raydd.config import DataConfig
from raydd.data.image_paths import confined
from raydd.data.readers.karpathy import read
from raydd.errors import DataError

FOUR = [Picture(split, f"{split}{i}", ("one", "two")) for split in ("train", "test") for i in range(2)]


def test_restval_joins_train(tmp_path: Path) -> None:
    config = write_karpathy(tmp_path, FOUR)
    assert "restval" in (tmp_path / "dataset_tiny.json").read_text()
    assert [entry.split for entry in read(config).entries] == ["train", "train", "test", "test"]


def test_the_only_data_set_of_a_folder_needs_no_name(tmp_path: Path) -> None:
    write_karpathy(tmp_path, FOUR)
    assert read(DataConfig(reader="karpathy", root=str(tmp_path), images="pictures")).name == "tiny"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"split": "train", "sentences": []}, "image 0 has no 'filename'"),
        ({"filename": "a.png", "split": "trian", "sentences": []}, "names the split 'trian'. Did you mean 'train'"),
        ({"filename": "a.png", "split": "train"}, "image 0 has no 'sentences'"),
        ({"filename": "a.png", "split": "train", "sentences": [{"tokens": []}]}, "image 0 has no 'raw'"),
        ({"filename": "a.png", "split": "train", "sentences": [], "filepath": 3}, "'filepath' is a int"),
    ],
)
def test_a_malformed_image_is_named(row: dict[str, object], message: str, tmp_path: Path) -> None:
    config = write_karpathy(tmp_path, FOUR)
    (tmp_path / "dataset_tiny.json").write_text(json.dumps({"images": [row]}))
    with pytest.raises(DataError, match=message):
        read(config)


def test_a_path_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    config = write_karpathy(tmp_path, FOUR)
    row = {"filename": "passwd", "filepath": "../../../etc", "split": "train", "sentences": [{"raw": "x"}]}
    (tmp_path / "dataset_tiny.json").write_text(json.dumps({"images": [row]}))
    entries, problems = confined(read(config).entries, config)
    assert entries == ()
    assert [problem.kind for problem in problems] == ["image path outside"]
