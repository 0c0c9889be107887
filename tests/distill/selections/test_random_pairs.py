"""Random pairs: of different images, by seed, no more than there are."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raydd.distill.selections.random_pairs import random_captions
from raydd.errors import ConfigError


@given(images=st.integers(1, 30), captions=st.integers(1, 5), seed=st.integers(0, 999), data=st.data())
@settings(max_examples=40)
def test_each_pair_has_an_image_of_its_own(images: int, captions: int, seed: int, data: st.DataObject) -> None:
    owner = torch.arange(images).repeat_interleave(captions)
    pairs = data.draw(st.integers(1, images))
    drawn = random_captions(owner, pairs, seed)
    assert len(drawn) == pairs
    assert len(owner[drawn].unique()) == pairs
    assert torch.equal(drawn, random_captions(owner, pairs, seed))


def test_every_image_and_every_caption_can_be_drawn() -> None:
    owner = torch.arange(5).repeat_interleave(3)
    drawn = {int(index) for seed in range(200) for index in random_captions(owner, 2, seed)}
    assert drawn == set(range(15))


def test_more_pairs_than_images_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"distill\.pairs is 4, but train has 3 images"):
        random_captions(torch.arange(3).repeat(2), 4, 0)
