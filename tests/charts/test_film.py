import io

import numpy as np
from made_sets import made_set
from PIL import Image, ImageSequence

import raydd
from raydd.charts.film import film
from raydd.distill.heads import embed
from raydd.report.sets import distilled_again, last_expert
from raydd.sets.read import open_set


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
