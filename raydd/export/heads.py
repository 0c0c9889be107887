"""Exports a trained student: its weights as safetensors, and image encoder and heads as ONNX, checked against torch."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from raydd.errors import ConfigError, NonFiniteError
from raydd.sets.read import OpenedSet

HEADS, IMAGE_MODEL, TEXT_MODEL = "heads.safetensors", "image.onnx", "text_head.onnx"
_TOLERANCE = 1e-4  # largest accepted difference between ONNX and torch, in an entry of a unit embedding

_READING_CODE = """\
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

{heads}
"""


def reading_code(tensors: Mapping[str, Tensor]) -> str:
    """Return Python code that reads a student's file."""
    if any(name.startswith("image_encoder.") for name in tensors):
        return _READING_CODE.replace(
            "{heads}",
            'text_head = load_head("text")\n'
            "# The trained weights of the image encoder, named as in raydd's encoder that the file's header names:\n"
            'image_encoder = {n.removeprefix("image_encoder."): w for n, w in load_file("heads.safetensors").items()'
            ' if n.startswith("image_encoder.")}',
        )
    return _READING_CODE.replace("{heads}", 'image_head, text_head = load_head("image"), load_head("text")')


def write_student(tensors: Mapping[str, Tensor], opened: OpenedSet, folder: Path) -> dict[str, str]:
    """Write a student's weights to one safetensors file, whose header names the encoders that they need."""
    folder.mkdir(parents=True, exist_ok=True)
    provenance = opened.provenance
    header = {"image_encoder": provenance.encoders.image.name, "text_encoder": provenance.encoders.text.name}
    save_file(dict(tensors), folder / HEADS, {**header, "temperature": str(provenance.temperature)})
    trained = any(name.startswith("image_encoder.") for name in tensors)
    contents = "image encoder and text head" if trained else "image and text head"
    return {HEADS: f"{contents} of a student; a head is Linear, GELU, Linear, residual, LayerNorm"}


def write_onnx(modules: tuple[nn.Module, nn.Module], size: int, text_width: int, folder: Path) -> dict[str, str]:
    """Write `image.onnx` (pixels [B 3 S S] in 0 to 1 to unit embeddings) and `text_head.onnx` (from text features).

    Both run once in onnxruntime on random input. A file whose output differs from that of torch is deleted.

    Raises:
        ConfigError: onnx or onnxruntime is not installed.
        NonFiniteError: the output of ONNX differs from that of torch.
    """
    folder.mkdir(parents=True, exist_ok=True)
    image, text = modules
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(2, 3, size, size, generator=generator)
    _export_onnx(image, pixels, folder / IMAGE_MODEL, "pixels")
    _export_onnx(text, torch.randn(2, text_width, generator=generator), folder / TEXT_MODEL, "text_features")
    return {
        IMAGE_MODEL: f"the student's image model: `pixels` [B 3 {size} {size}] in 0 to 1 to `embedding`",
        TEXT_MODEL: f"text head: `text_features` [B {text_width}] of the text encoder to `embedding`",
    }


def _export_onnx(module: nn.Module, example: Tensor, file: Path, name: str) -> None:
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
    # Check with another batch size than that of tracing.
    batch = example[:1].repeat(3, *[1] * (example.ndim - 1))
    (onnx_output,) = onnxruntime.InferenceSession(file).run(None, {name: batch.numpy()})
    with torch.no_grad():
        torch_output = module(batch).numpy()
    if not np.allclose(np.asarray(onnx_output), torch_output, atol=_TOLERANCE):
        file.unlink()
        raise NonFiniteError(
            f"The output of {file.name} differs from torch's by up to "
            f"{np.abs(np.asarray(onnx_output) - torch_output).max():.2g}. "
            "Use --to head, or another version of torch and onnx."
        )
