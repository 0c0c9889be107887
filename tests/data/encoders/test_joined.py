"""Several image encoders side by side: each part is what the encoder gives alone."""

import pytest
import torch

from raydd.config import EncodersConfig
from raydd.data.encoders import image_identity, load_image_encoder, resized
from raydd.errors import ConfigError

JOINED = "joined:tiny_encoders:image,tiny_encoders:wide"


def test_each_part_is_the_encoder_s_own_on_the_resized_pixels() -> None:
    joined = load_image_encoder(EncodersConfig(image=JOINED))
    alone = [load_image_encoder(EncodersConfig(image=f"tiny_encoders:{name}")) for name in ("image", "wide")]
    assert (joined.size, joined.width) == (20, 24 + 30)
    assert torch.equal(joined.pixel_std, alone[0].pixel_std)
    pixels = torch.rand(3, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    want = [encoder.module(resized(pixels, encoder.size)) for encoder in alone]
    assert torch.allclose(joined.module(pixels), torch.cat(want, 1), atol=1e-6)


def test_a_weight_multiplies_one_encoder_s_features() -> None:
    plain, leaning = (load_image_encoder(EncodersConfig(image=name)) for name in (JOINED, f"{JOINED}*0.5"))
    pixels = torch.rand(3, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    factors = torch.cat([torch.ones(24), torch.full((30,), 0.5)])
    assert torch.allclose(leaning.module(pixels), plain.module(pixels) * factors, atol=1e-6)


def test_its_gradient_is_the_sum_of_the_parts() -> None:
    joined = load_image_encoder(EncodersConfig(image=JOINED)).module.double()
    pixels = torch.rand(2, 3, 20, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    pixels = (0.2 + 0.6 * pixels).requires_grad_()  # no pixel is clamped when it is made smaller
    weights = torch.randn(2, joined(pixels).shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    gradient = torch.autograd.grad((joined(pixels) * weights).sum(), pixels)[0]
    along = torch.randn(pixels.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    step = 1e-5
    with torch.no_grad():
        moved = [((joined(pixels + sign * step * along)) * weights).sum() for sign in (1, -1)]
    assert torch.allclose((moved[0] - moved[1]) / (2 * step), (gradient * along).sum(), rtol=1e-6)


def test_its_identity_tells_its_parts_and_their_order() -> None:
    names = (JOINED, "joined:tiny_encoders:wide,tiny_encoders:image", "tiny_encoders:image", f"{JOINED}*0.5")
    assert len({image_identity(EncodersConfig(image=name)) for name in names}) == 4


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("joined:tiny_encoders:image", "several encoders"),
        ("joined:tiny_encoders:image,", "several encoders"),
        ("joined:efficientnet-lite0,efficientnet-lite7", "efficientnet-lite7"),
        ("joined:efficientnet-lite0,efficientnet-lite1*", "no weight"),
        ("joined:efficientnet-lite0,efficientnet-lite1*0", "no weight"),
        ("joined:efficientnet-lite0*half,efficientnet-lite1", "no weight"),
    ],
)
def test_what_cannot_be_joined_is_named(name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_image_encoder(EncodersConfig(image=name))


def test_one_file_is_no_weights_for_several(tmp_path) -> None:
    (tmp_path / "weights.pth").write_bytes(b"")
    with pytest.raises(ConfigError, match="names several"):
        load_image_encoder(EncodersConfig(image=JOINED, image_weights=str(tmp_path / "weights.pth")))
