from pathlib import Path

import pytest
from made_sets import ENCODERS, made_set

import raydd
from raydd.cli import main
from raydd.errors import DataError
from raydd.export.searching import photographs, search
from raydd.sets.read import open_set
from raydd.store import Store


def test_an_image_finds_itself_and_a_second_search_encodes_nothing(store: Store):
    made = made_set()
    pictures = Path(made.config.data.root) / "images"
    told: list[int] = []

    def listen(work: str, done: int, total: int) -> None:
        told.append(done)

    query = str(pictures / "val3.png")
    found = search(open_set(made.folder), query, pictures, raydd.open(made.config, store, listen))
    assert len(found) == 36
    assert found[0].path.name == "val3.png"
    assert found[0].cosine == pytest.approx(1, abs=1e-5)
    assert max(told) == 36
    told.clear()
    assert search(open_set(made.folder), query, pictures, raydd.open(made.config, store, listen)) == found
    assert told == []


def test_a_text_ranks_every_photograph(capsys: pytest.CaptureFixture[str]):
    made = made_set()
    place = ["--place.home", str(made.home), "--count", "4", *ENCODERS]
    pictures = Path(made.config.data.root) / "images"
    assert main(["search", "some noise", "--set", str(made.folder), "--in", str(pictures), *place]) == 0
    shown = capsys.readouterr().out
    assert shown.count(".png") == 4
    assert "36 photographs searched by a student of 6 pairs from tiny" in shown


def test_a_folder_without_pictures_is_named(tmp_path: Path):
    with pytest.raises(DataError, match="no picture in"):
        photographs(tmp_path)
