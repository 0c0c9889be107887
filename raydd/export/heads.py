"""A trained student for others: its heads as safetensors, and as ONNX with the image encoder, checked against torch."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from raydd.data import ImageEncoder
from raydd.distill.experts import Heads
from raydd.distill.heads import Head, embed
from raydd.errors import ConfigError, NonFiniteError
from raydd.sets.read import OpenedSet

HEADS, IMAGE_MODEL, TEXT_MODEL = "heads.safetensors", "image.onnx", "text_head.onnx"
_NAMES = ("projection.weight", "projection.bias", "fc.weight", "fc.bias", "norm.weight", "norm.bias")
_AGREES = 1e-4  # largest difference of a unit embedding's entries between ONNX and torch

READING = """\
import torch
from safetensors.torch import load_file
from torch import nn

class Head(nn.Module):
    def __init__(self, width_in, width):
        super().__init__()
        self.projection, self.fc = nn.Linear(width_in, width), nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
    def forward(self, x):
        p = self.projection(x)
        return nn.functional.normalize(self.norm(p + self.fc(nn.functional.gelu(p))), dim=-1)

def load_head(side, file="heads.safetensors"):
    state = {name.removeprefix(f"{side}."): part for name, part in load_file(file).items() if name.startswith(side)}
    head = Head(state["projection.weight"].shape[1], len(state["fc.bias"]))
    head.load_state_dict(state)
    return head.eval()

image_head, text_head = load_head("image"), load_head("text")
"""


def write_heads(heads: Heads, opened: OpenedSet, folder: Path) -> dict[str, str]:
    """Both heads in one safetensors file, named as `torch.nn` names them; the header says which encoders they need."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{side}.{name}": part.contiguous()
        for side, head in zip(("image", "text"), heads, strict=True)
        for name, part in zip(_NAMES, head, strict=True)
    }
    made = opened.provenance
    header = {"image_encoder": made.encoders.image.name, "text_encoder": made.encoders.text.name}
    save_file(tensors, folder / HEADS, {**header, "temperature": str(made.temperature)})
    return {HEADS: "image and text head of a student: Linear, GELU, Linear, residual, LayerNorm"}


def write_onnx(heads: Heads, encoder: ImageEncoder, folder: Path) -> dict[str, str]:
    """`image.onnx`, from pixels [B 3 S S] in 0 to 1 to unit embeddings, and `text_head.onnx`, from text features.

    Both are run by onnxruntime on random input and compared with torch; what differs is not left there.

    Raises:
        ConfigError: onnx or onnxruntime is not installed.
        NonFiniteError: what ONNX gives is not what torch gives.
    """
    folder.mkdir(parents=True, exist_ok=True)
    image, text = heads
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(2, 3, encoder.size, encoder.size, generator=generator)
    rows = torch.randn(2, text.projection_weight.shape[1], generator=generator)
    _write(nn.Sequential(encoder.module.cpu(), _HeadModule(image)), pixels, folder / IMAGE_MODEL, "pixels")
    _write(_HeadModule(text), rows, folder / TEXT_MODEL, "text_features")
    return {
        IMAGE_MODEL: f"image encoder and head: `pixels` [B 3 {encoder.size} {encoder.size}] in 0 to 1 to `embedding`",
        TEXT_MODEL: f"text head: `text_features` [B {rows.shape[1]}] of the text encoder to `embedding`",
    }


class _HeadModule(nn.Module):
    def __init__(self, head: Head) -> None:
        super().__init__()
        for name, part in head._asdict().items():
            self.register_buffer(name, part)

    def forward(self, features: Tensor) -> Tensor:
        parts: Mapping[str, Tensor] = dict(self.named_buffers())
        return embed(Head(**parts), features)


def _write(module: nn.Module, example: Tensor, file: Path, name: str) -> None:
    try:
        import onnx  # noqa: F401  # torch's exporter needs it
        import onnxruntime
    except ImportError as error:
        raise ConfigError(f"--to onnx needs {error.name}. Run `pip install 'raydd[export]'`.") from error
    module = module.eval()
    program = torch.onnx.export(
        module,
        (example,),
        input_names=[name],
        output_names=["embedding"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    program.save(str(file))
    # Another batch size than the one that it was traced with.
    other = example[:1].repeat(3, *[1] * (example.ndim - 1))
    (got,) = onnxruntime.InferenceSession(file).run(None, {name: other.numpy()})
    with torch.no_grad():
        want = module(other).numpy()
    if not np.allclose(np.asarray(got), want, atol=_AGREES):
        file.unlink()
        raise NonFiniteError(
            f"{file.name} differs from torch by up to {np.abs(np.asarray(got) - want).max():.2g}. "
            "Use --to head, or another version of torch and onnx."
        )
