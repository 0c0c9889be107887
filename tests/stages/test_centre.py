"""`features.centre`: heads train on image features minus their mean, and nothing else notices."""

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from stage_settings import TINY

import raydd
from raydd import stages
from raydd.config import Config
from raydd.distill.heads import embed
from raydd.settings import with_settings
from raydd.store import Store

# An encoder that subtracts the mean itself, which is what `features.centre` has to equal.
SHIFTED = """
import torch, tiny_encoders
from dataclasses import replace
from pathlib import Path
from safetensors.torch import load_file

class Shifted(torch.nn.Module):
    def __init__(self, module):
        super().__init__()
        self.module = module
        self.register_buffer("centre", load_file(Path(__file__).parent / "centre.safetensors")["centre"])

    def forward(self, pixels):
        return self.module(pixels) - self.centre

def image(config):
    tower = tiny_encoders.image(config)
    return replace(tower, module=Shifted(tower.module))
"""


@pytest.fixture
def centred(tiny_data: Path) -> Config:
    own = {"data.root": str(tiny_data), "features.centre": True, "distill.images": "features"}
    return with_settings(Config(), {**TINY, **own})


@pytest.mark.parametrize("images", ["features", "pixels", "features-then-pixels"])
def test_it_equals_an_encoder_that_subtracts_the_mean(
    centred: Config, store: Store, tmp_path: Path, images: str
) -> None:
    centred = with_settings(centred, {"distill.images": images, "distill.blend": "noise"})
    work = raydd.open(centred, store)
    centre = work.features.image_mean
    save_file({"centre": centre}, tmp_path / "centre.safetensors")
    (tmp_path / "shifted.py").write_text(SHIFTED)
    encoder = {"features.centre": False, "encoders.image": f"{tmp_path / 'shifted.py'}:image"}
    other = raydd.open(with_settings(centred, encoder), store)
    made, wanted = stages.final_synthetic(work), stages.final_synthetic(other)
    assert made.image_centre is not None
    assert torch.equal(made.image_centre, centre)
    assert wanted.image_centre is None
    close = {"rtol": 1e-2, "atol": 1e-2}  # cached features are rounded to half precision, before or after
    torch.testing.assert_close(made.image_features - centre, wanted.image_features, **close)
    torch.testing.assert_close(made.text_features, wanted.text_features, **close)
    assert made.rate_image == pytest.approx(wanted.rate_image, rel=1e-2)
    for (ours, _), (theirs, _) in zip(
        work.train_students(made, [0, 1]), other.train_students(wanted, [0, 1]), strict=True
    ):
        rows = made.image_features.expand(2, -1, -1)
        torch.testing.assert_close(embed(ours, rows), embed(theirs, rows - centre), rtol=3e-2, atol=3e-2)


def test_an_expert_and_a_student_score_features_as_the_encoder_gives_them(centred: Config, store: Store) -> None:
    work = raydd.open(centred, store)
    snapshot, centre = work.experts(1, [1]).snapshot(0, 1), work.features.image_mean
    rows = work.features.train.images.gather(torch.arange(12), 0)
    torch.testing.assert_close(embed(work.finished(snapshot)[0], rows), embed(snapshot[0], rows - centre))
    assert torch.equal(work.trained_on.train.images.gather(torch.arange(12), 0), rows - centre)
    assert work.trained_on.val is work.features.val
    start = work.start()
    assert torch.equal(work.embed(snapshot, start)[0], embed(work.finished(snapshot)[0], start.image_features))


def test_a_set_keeps_its_centre_and_its_names_say_so(centred: Config, store: Store) -> None:
    work, plain = raydd.open(centred, store), raydd.open(with_settings(centred, {"features.centre": False}), store)
    result = stages.run(work)
    assert set(result) >= {"synthetic", "random", "full"}
    record = stages.synthetic_record(work)
    assert work.source == plain.source  # the cached features are the same
    assert work.experts_record.fingerprint != plain.experts_record.fingerprint
    assert record.fingerprint != stages.synthetic_record(plain).fingerprint
    read, made = stages.load_synthetic(record), stages.final_synthetic(work)
    assert read.image_centre is not None
    assert made.image_centre is not None
    assert torch.equal(read.image_centre, made.image_centre)
    bare = dataclasses.replace(read, image_centre=None)
    assert read.stored_bytes - bare.stored_bytes == 4 * read.image_features.shape[1]
    first, second = (stages.score_students(work, one, split="val", seeds=[0]).mean for one in (made, read))
    assert first == second
    assert stages.score_students(plain, read, split="val", seeds=[0]).mean == first  # the set itself says what to do
