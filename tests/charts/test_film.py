import io
import shutil
from pathlib import Path

import numpy as np
from made_sets import made_set
from PIL import Image, ImageSequence

import raydd
from raydd.charts.film import film
from raydd.distill.heads import embed
from raydd.report.sets import distilled_again, last_expert
from raydd.sets.read import open_set
from raydd.store import Store


def test_the_film_ends_with_the_set_and_leaves_the_store_as_it_was():
    made = made_set("features")
    opened = open_set(made.folder)
    work = raydd.open(made.config, made.store)
    heads, before = last_expert(opened, work), made.store.names("synthetic")
    assert heads
    states = distilled_again(work, heads, 3)
    assert len(states) == 3
    assert len(distilled_again(work, heads, 4)) == 3  # six steps are not a multiple of four
    assert np.allclose(states[-1][0], embed(heads[0], opened.synthetic.image_features))
    assert made.store.names("synthetic") == before
    opened_film = Image.open(io.BytesIO(film(states)))
    frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(opened_film)]
    assert len(frames) == 3
    assert not np.array_equal(frames[0], frames[-1])


def test_what_a_film_lacks_is_not_written_to_the_store(tmp_path: Path):
    made, store = made_set("features"), Store(tmp_path / "store")
    shutil.copytree(made.store.root, store.root)
    work = raydd.open(made.config, store)
    heads = last_expert(open_set(made.folder), work)
    (expert,) = {name.partition("/")[2] for name in store.names("experts") if "seed-000001/epoch-001" in name}
    store.remove(f"experts/{expert}")  # the second expert has to be trained again, in a record that is there
    store.remove_folder("features")  # and nothing is encoded: whole records are missing
    before = store.listing()
    assert len(distilled_again(work, heads, 3)) == 3
    assert store.listing() == before
