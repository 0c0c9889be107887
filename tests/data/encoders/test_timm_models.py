from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from raydd.config import EncodersConfig
from raydd.data.encoders import image_identity, load_image_encoder, weights
from raydd.data.encoders.towers import CLIP_MEAN
from raydd.errors import ConfigError, DataError


def test_a_timm_model_comes_with_its_own_normalisation() -> None:
    config = EncodersConfig(image="timm:resnet18", image_weights="random:3", image_size=64)
    encoder = load_image_encoder(config)
    assert encoder.width == 512
    assert encoder.module.mean.flatten().tolist() == pytest.approx(timm.get_pretrained_cfg("resnet18").mean)
    pixels = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(encoder.module(pixels), load_image_encoder(config).module(pixels))


def test_a_vision_transformer_takes_another_size() -> None:
    config = EncodersConfig(image="timm:test_vit", image_weights="random:0", image_size=64)
    encoder = load_image_encoder(config)
    assert encoder.module(torch.rand(1, 3, 64, 64)).shape == (1, encoder.width)


def test_nfnet_is_normalised_as_published() -> None:
    encoder = load_image_encoder(EncodersConfig(image="nfnet", image_weights="random:0", image_size=64))
    assert encoder.width == 2304
    assert encoder.module.mean.flatten().tolist() == pytest.approx(CLIP_MEAN)


def test_a_local_file_is_loaded_as_timm_loads_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = timm.create_model("test_resnet", pretrained=False)
    save_file(plain.state_dict(), tmp_path / "w.safetensors")  # with the classifier, as published files have it
    plain.reset_classifier(0)
    encoder = load_image_encoder(EncodersConfig(image="timm:test_resnet", image_weights=f"{tmp_path}/w.safetensors"))
    pixels = torch.rand(2, 3, encoder.size, encoder.size)
    with torch.no_grad():
        want = plain.eval()((pixels - encoder.module.mean) / encoder.module.std)
        assert torch.allclose(encoder.module(pixels), want, atol=1e-4 * float(want.abs().max()))
    with pytest.raises(DataError, match="does not fit VisionTransformer"):
        load_image_encoder(EncodersConfig(image="timm:test_vit", image_weights=f"{tmp_path}/w.safetensors"))


def test_an_unreachable_hub_ends_at_once_in_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(weights, "_hub_answers", lambda endpoint: False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    before = constants.HF_HUB_OFFLINE
    with pytest.raises(DataError, match=r"timm:test_vit: not on this machine, .* encoders.image_weights"):
        load_image_encoder(EncodersConfig(image="timm:test_vit"))
    assert before == constants.HF_HUB_OFFLINE


def test_identity_says_the_weights_tag() -> None:
    assert image_identity(EncodersConfig(image="timm:nfnet_l0")) == "timm:nfnet_l0 nfnet_l0.ra2_in1k"
    assert image_identity(EncodersConfig(image="nfnet")) == "nfnet nfnet_l0.ra2_in1k"


@pytest.mark.parametrize(
    ("name", "near"), [("resnet81", "resnet18"), ("resnet18.a1_in1", r"resnet18\.a1_in1k"), ("", "timm:")]
)
def test_an_unknown_model_is_answered_with_near_ones(name: str, near: str) -> None:
    with pytest.raises(ConfigError, match=near):
        load_image_encoder(EncodersConfig(image=f"timm:{name}"))
