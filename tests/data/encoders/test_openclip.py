import json
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from bench.counting import count_operations
from raydd.config import EncodersConfig
from raydd.data.encoders import image_identity, load_image_encoder, load_text_encoder
from raydd.errors import ConfigError, DataError

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module", autouse=True)
def _tiny_model(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("open_clip") / "raydd-tiny.json"
    path.write_text(json.dumps(TINY))
    open_clip.add_model_config(path)


def both(weights: str) -> EncodersConfig:
    name = "open_clip:raydd-tiny"
    return EncodersConfig(image=name, text=name, image_weights=weights, text_weights=weights)


def test_both_sides_are_those_of_the_whole_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = open_clip.create_model("raydd-tiny", load_weights=False).eval()
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    config = both(str(tmp_path / "w.safetensors"))
    image, text = load_image_encoder(config), load_text_encoder(config)
    assert (image.size, image.width, text.width) == (32, 16, 16)
    pixels, captions = torch.rand(2, 3, 32, 32), ["a dog", "a much longer caption about two cats"]
    with torch.no_grad():
        normalised = (pixels - image.module.mean) / image.module.std
        assert torch.allclose(image.module(pixels), model.encode_image(normalised), atol=1e-5)
        want = model.encode_text(open_clip.get_tokenizer("raydd-tiny")(captions))
    assert torch.allclose(text.encode(captions), want, atol=1e-5)


def test_random_weights_follow_their_seed() -> None:
    first, again, other = (load_text_encoder(both(f"random:{seed}")).encode(["a dog"]) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_weights_tag_brings_its_normalisation() -> None:
    config = EncodersConfig(image="open_clip:ViT-B-32/openai", image_weights="random:0", image_size=32)
    encoder = load_image_encoder(config)
    assert encoder.size == 32
    assert encoder.module.mean.flatten().tolist() == pytest.approx(open_clip.OPENAI_DATASET_MEAN)
    assert image_identity(config) == "open_clip:ViT-B-32/openai random:0 size 32"
    assert image_identity(EncodersConfig(image="open_clip:ViT-B-32/openai")) == "open_clip:ViT-B-32/openai openai"


@pytest.mark.parametrize(
    ("name", "help_"),
    [("ViT-B-33/openai", "ViT-B-32"), ("ViT-B-32/opnai", "Did you mean 'openai'"), ("ViT-B-32", "Known: .*openai")],
)
def test_unknown_names_are_answered_with_known_ones(name: str, help_: str) -> None:
    with pytest.raises(ConfigError, match=help_):
        load_image_encoder(EncodersConfig(image=f"open_clip:{name}"))


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(DataError, match="does not fit open_clip's raydd-tiny"):
        load_image_encoder(both(str(tmp_path / "w.safetensors")))


def test_tokens_are_copied_to_a_gpu_without_waiting() -> None:
    encoder = load_text_encoder(both("random:0"), "meta")  # which stands for the GPU
    counts = count_operations(lambda: encoder.encode(["a dog", "two cats"]))
    assert counts.copies == 1
    assert "copy to the device" not in counts.waits
