"""Data sets by `datasets` itself: from a hub on loopback, from its cache, and from a folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import Hub, hub  # noqa: F401
from layouts import Picture, write_parquet

from raydd.config import DataConfig
from raydd.data.readers import find_reader
from raydd.data.readers.hub import read
from raydd.errors import ConfigError
from raydd.outside import names_code, names_download

pytest.importorskip("datasets")
PICTURES = [Picture(split, f"{split}{n}", ("one", f"two {n}")) for split in ("train", "val", "test") for n in range(3)]
LIST = """
import hashlib, json, sys
from raydd.config import DataConfig
from raydd.data.readers import find_reader
from raydd.errors import RayddError
try:
    config = DataConfig(**json.loads(sys.argv[1]))
    found = find_reader(config.reader)(config)
    rows = [(e.split, e.id, hashlib.sha256(e.image.read()).hexdigest(), e.captions) for e in found.entries]
    print(json.dumps([rows, [(p.kind, p.which) for p in found.problems]]))
except RayddError as error:
    print(json.dumps(str(error)))
"""


def listed(home: Path, environment: dict[str, str], **given: str):
    """In a process of its own, since `datasets` reads its environment when it is imported."""
    environment = {**os.environ, **environment, "HF_HOME": str(home)}
    command = [sys.executable, "-c", LIST, json.dumps(given)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_a_data_set_of_the_hub_is_fetched_once_and_then_read_without_it(hub: Hub, tmp_path: Path) -> None:  # noqa: F811
    import hashlib

    (tmp_path / "made").mkdir()
    write_parquet(tmp_path / "made", PICTURES)
    hub.files["someone/tiny"] = {path.name: path.read_bytes() for path in (tmp_path / "made/data").iterdir()}
    rows, problems = listed(tmp_path / "home", hub.environment, reader="hf:someone/tiny")
    assert problems == []
    assert sorted((split, digest, captions) for split, _, digest, captions in rows) == sorted(
        (picture.split, hashlib.sha256(picture.content).hexdigest(), list(picture.captions)) for picture in PICTURES
    )
    nowhere = {**hub.environment, "HF_ENDPOINT": "http://127.0.0.1:9"}
    assert listed(tmp_path / "home", nowhere, reader="hf:someone/tiny") == [rows, []]
    said = listed(tmp_path / "home", nowhere, reader="hf:someone/other")
    assert said.startswith("data.reader hf:someone/other cannot be loaded (the hub cannot be reached). Check the name")


@pytest.mark.slow
def test_a_folder_is_read_by_datasets_and_its_images_stay_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    (folder / "train").mkdir(parents=True)
    (tmp_path / "private.png").write_bytes(PICTURES[0].content)
    for name in ("a.png", "b.png"):
        (folder / "train" / name).write_bytes(Picture("train", name, ()).content)
    (folder / "train" / "away.png").symlink_to(tmp_path / "private.png")
    lines = [{"file_name": name, "text": f"a {name}"} for name in ("a.png", "b.png", "away.png")]
    (folder / "train" / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    rows, problems = listed(tmp_path / "home", {}, reader=f"hf:{folder}")
    assert [(split, name, captions) for split, name, _, captions in rows] == [
        ("train", "train/a.png", ["a a.png"]),
        ("train", "train/b.png", ["a b.png"]),
    ]
    assert [kind for kind, _ in problems] == ["image path outside"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"reader": "hf:"}, "data.reader hf: names no data set. Write it after the colon"),
        ({"reader": "hf:a/b", "root": "/x"}, "data.root and data.images have no use with data.reader hf:a/b"),
    ],
)
def test_settings_that_cannot_be_are_refused(given: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        read(DataConfig(**given))


def test_a_missing_or_old_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets, "__version__", "3.6.0")
    with pytest.raises(ConfigError, match=r"datasets 3.6.0 runs code of the data sets .*raydd\[hf\]"):
        read(DataConfig(reader="hf:a/b"))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r"hf:a/b needs the package datasets .*pip install 'raydd\[hf\]'"):
        read(DataConfig(reader="hf:a/b"))


def test_the_name_is_a_download_and_no_code() -> None:
    assert find_reader("hf:a/b") is read
    assert names_download("hf:a/b", "data.reader")
    assert not names_code("hf:a/b", "data.reader")
    assert names_code("mine:read", "data.reader")
