"""Files of other code: read as they are described, and refused with one sentence where they are not so."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from foreign_sets import LOW_RANK, MEAN, STD, like_lors, said_of_lors, write

from raydd.errors import ConfigError, RecordError
from raydd.sets.foreign import read_foreign


def test_a_file_of_lors_is_read_as_it_was_saved(tmp_path: Path):
    saved = like_lors()
    found = read_foreign(write(tmp_path, saved, **said_of_lors(), name="LoRS", source="https://example.org"))
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    assert torch.allclose((found.images / 255 - mean) / std, saved["image"], atol=1e-5)
    assert found.images.min() < 0  # learned pixels are not clipped
    assert torch.equal(found.texts, saved["text"])  # type: ignore[arg-type]
    assert torch.allclose(found.similarity.matrix(), saved["similarity_mat"], atol=1e-6)
    assert (found.rate_image, found.rate_text) == pytest.approx((0.1, 0.2))
    assert (found.name, found.source, found.loss, len(found)) == ("LoRS", "https://example.org", "wbce", 4)
    assert found.stored_bytes == 4 * (4 * 3 * 16 * 16 + 4 * 10 + 4 + 2 * 4 * 2) + 16
    dense = read_foreign(write(tmp_path, saved, **(said_of_lors() | {"similarity": {"matrix": "similarity_mat"}})))
    assert torch.equal(dense.similarity.matrix(), saved["similarity_mat"])
    assert dense.fingerprint != found.fingerprint


def test_the_description_of_the_page_reads_what_lors_saves(tmp_path: Path):
    page = (Path(__file__).parents[2] / "docs/outside.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    write(tmp_path, like_lors())
    (tmp_path / "lors.yaml").write_text(shown)
    found = read_foreign(tmp_path / "lors.yaml")
    assert (len(found), found.similarity.kind, found.text_encoder) == (4, "low-rank", "bert")


@pytest.mark.parametrize("suffix", [".pt", ".npz"])
def test_captions_one_rate_and_no_similarity_are_read(tmp_path: Path, suffix: str):
    content = {"x": torch.zeros(2, 3, 8, 8).byte() + 255, "t": ["a dog", "zwei Hünde"], "lr": torch.tensor([0.5])}
    said = {"images": {"key": "x", "are": "pixels-255"}, "texts": {"key": "t", "are": "captions"}, "loss": "infonce"}
    found = read_foreign(write(tmp_path, content, suffix, **said, similarity="none", rates="lr"))
    assert found.texts == ("a dog", "zwei Hünde")
    assert (found.rate_image, found.rate_text) == (0.5, 0.5)
    assert bool((found.images == 255).all())
    assert torch.equal(found.similarity.matrix(), torch.eye(2))
    assert found.stored_bytes == 2 * 3 * 64 + 5 + 11 + 16
    fixed = read_foreign(write(tmp_path, content, suffix, **said, similarity="none", rates={"image": 0.3, "text": 1}))
    assert (fixed.rate_image, fixed.rate_text) == (0.3, 1.0)


def test_safetensors_and_fractions_are_read(tmp_path: Path):
    content = {"similarity.a": torch.eye(2), "x": torch.full((2, 3, 8, 8), 0.5), "t": torch.ones(2, 5)}
    said = {"images": {"key": "x", "are": "pixels-1"}, "texts": {"key": "t", "are": "features", "of": "minilm"}}
    matrix = {"matrix": "similarity.a"}  # a name with a dot
    found = read_foreign(write(tmp_path, content, ".safetensors", **said, similarity=matrix, rates=0.1, loss="bce"))
    assert bool((found.images == 127.5).all())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"images": None}, "lacks the field images. Write `images: {key: KEY, are: normalised, mean"),
        ({"similarity": None}, "lacks the field similarity. Write `similarity: none`"),
        ({"loss": None}, "lacks the field loss"),
        ({"centre": 3}, "centre is 3, which is not valid. Write `centre: KEY`"),
        ({"rates": None}, "lacks the field rates. Write `rates: KEY`, one learning rate for both"),
        ({"images": {"key": "image"}}, "images is .* is not valid. Write .*pixels-255"),
        ({"images": {"key": "image", "are": "normalised", "mean": MEAN}}, "is not valid"),
        ({"images": {"key": "image", "are": "normalised", "mean": MEAN, "std": [1, 1]}}, "is not valid"),
        ({"images": {"key": "image", "are": "features"}}, "features, of: ENCODER"),
        ({"texts": {"key": "text", "are": "features"}}, "texts is .* Write `texts: {key: KEY, are: features, of"),
        ({"texts": "text"}, "texts is 'text', which is not valid"),
        ({"similarity": LOW_RANK}, "similarity is .*alpha: NUMBER"),
        ({"similarity": {"matrix": 3}}, "similarity is"),
        ({"rates": -0.1}, "rates is -0.1, which"),
        ({"rates": {"image": "syn_lr_img"}}, "rates is"),
        ({"loss": "InfoNCE"}, "loss is 'InfoNCE', .* infonce, wbce, bce"),
        ({"loss": "own.py:LOSS"}, "loss is 'own.py:LOSS'"),
        ({"file": "../distilled.pt"}, "file is '../distilled.pt'"),
        ({"file": "distilled.pkl"}, "file is 'distilled.pkl'"),
        ({"colour": 3}, "there is no field 'colour'. Known: file, images"),
    ],
)
def test_what_a_description_leaves_open_is_asked_for(tmp_path: Path, change: dict[str, Any], said: str):
    with pytest.raises(ConfigError, match=said):
        read_foreign(write(tmp_path, like_lors(), **(said_of_lors() | change)))


def test_a_file_without_a_description_is_listed(tmp_path: Path):
    write(tmp_path, like_lors())
    said = r"holds image \(float32 \[4 3 16 16\]\), .*similarity_params \(3 values\).*but does not say what they mean"
    with pytest.raises(ConfigError, match=said):
        read_foreign(tmp_path / "distilled_3000.pt")
    (tmp_path / "set.yaml").write_text("- 1")
    with pytest.raises(ConfigError, match=r"must be a dictionary of a set's fields, not \[1\]"):
        read_foreign(tmp_path / "set.yaml")


LONG = torch.zeros(1).expand(2**34)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image": torch.zeros(4, 16, 16, 3)}, r"image is float32 \[4 16 16 3\], but images must be \[N 3 S S\]"),
        ({"image": torch.zeros(4, 3, 16, 20)}, r"\[4 3 16 20\], but images must be"),
        ({"image": torch.zeros(4, 3, 16, 16).byte()}, "image is uint8, but normalised must be fractions"),
        ({"text": torch.zeros(5, 10)}, r"text is float32 \[5 10\], but texts must be \[4 e\]"),
        ({"text": torch.full((4, 10), torch.nan)}, "text has NaN or infinite numbers, but texts must be finite"),
        ({"text": ["a dog"] * 4}, r"text is 4 values, but texts must be numbers \[4 e\]"),
        ({"text": torch.zeros(4, 10, dtype=torch.complex64)}, "complex64"),
        ({"text": torch.zeros(4, 0)}, r"float32 \[4 0\]"),
        ({"text": LONG.expand(4, -1)}, "over 8,589,934,592 bytes"),
        ({"similarity_params": [torch.ones(4), torch.ones(4, 2)]}, "has no 'similarity_params.2', which similarity"),
        ({"similarity_params": [torch.ones(4), torch.ones(4, 2), torch.ones(2, 4)]}, r"\[2 4\], but .* \[4 2\]"),
        ({"similarity_params": torch.tensor(1.0)}, "has no 'similarity_params.0'"),
        ({"syn_lr_img": torch.ones(2)}, r"syn_lr_img is float32 \[2\], but a learning rate must be one number above 0"),
        ({"syn_lr_img": torch.tensor(-0.1)}, "a learning rate must be one number above 0"),
        ({"syn_lr_txt": torch.tensor(torch.inf)}, "syn_lr_txt is inf"),
        ({"syn_lr_txt": "0.1"}, "syn_lr_txt is '0.1'"),
    ],
)
def test_a_field_of_another_shape_is_refused_with_both(tmp_path: Path, change: dict[str, Any], said: str):
    with pytest.raises(RecordError, match=said):
        read_foreign(write(tmp_path, like_lors() | change, **said_of_lors()))


@pytest.mark.parametrize(("are", "value", "white"), [("pixels-255", 1.0, 255), ("pixels-1", 255.0, 1)])
def test_pixels_that_would_all_be_black_or_far_beyond_white_are_refused(
    tmp_path: Path, are: str, value: float, white: int
):
    said = said_of_lors() | {"images": {"key": "image", "are": are}}
    content = like_lors() | {"image": torch.full((4, 3, 16, 16), value)}
    problem = f"image has absolute values up to {value:.3g}, but white is {white} in {are}"
    with pytest.raises(RecordError, match=problem):
        read_foreign(write(tmp_path, content, **said))
    content["image"][0, 0, 0, 0] = 1.5  # learned pixels may leave their range a little
    if are == "pixels-1":
        content["image"] /= 255
    assert len(read_foreign(write(tmp_path, content, **said))) == 4


def test_captions_are_as_many_texts_as_images(tmp_path: Path):
    said = said_of_lors() | {"texts": {"key": "text", "are": "captions"}}
    with pytest.raises(RecordError, match="text has 3 captions, but there are 4 images"):
        read_foreign(write(tmp_path, like_lors() | {"text": ["a"] * 3}, **said))
    with pytest.raises(RecordError, match=r"text is float32 \[4 10\], but captions must be a list of strings"):
        read_foreign(write(tmp_path, like_lors(), **said))
