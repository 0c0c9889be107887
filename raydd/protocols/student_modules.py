"""Students and their heads as `torch.nn` modules, and as tensors with the names of `torch.nn` parameters."""

from collections.abc import Mapping

from torch import Tensor, nn

from raydd.distill.encoder_passes import TrainedEncoder, Weights
from raydd.distill.heads import Head, embed, to_sphere

_TORCH_NAMES = ("projection.weight", "projection.bias", "fc.weight", "fc.bias", "norm.weight", "norm.bias")


class HeadModule(nn.Module):
    """A projection head with its weights: maps features to unit embeddings."""

    def __init__(self, head: Head) -> None:
        super().__init__()
        for name, parameter in head._asdict().items():
            self.register_buffer(name, parameter.cpu())

    def forward(self, features: Tensor) -> Tensor:
        """Map features [B d] to embeddings [B D] of length 1."""
        return embed(Head(**dict(self.named_buffers())), features)


class EncoderModule(nn.Module):
    """An image encoder with a student's weights: maps pixels in 0 to 1 to unit embeddings."""

    def __init__(self, encoder: TrainedEncoder, weights: Weights) -> None:
        super().__init__()
        self.encoder = encoder.module.cpu()
        self.encoder.load_state_dict({name: weight.cpu() for name, weight in weights.items()}, strict=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map pixels [B 3 S S] to embeddings [B D] of length 1."""
        return to_sphere(self.encoder(pixels))


def head_tensors(side: str, head: Head) -> dict[str, Tensor]:
    """Return a head's parameters under the names of `torch.nn`, prefixed with `image.` or `text.`."""
    return {f"{side}.{name}": parameter.cpu().contiguous() for name, parameter in zip(_TORCH_NAMES, head, strict=True)}


def head_of(side: str, tensors: Mapping[str, Tensor]) -> Head:
    """Return the head whose tensors `head_tensors` returned."""
    return Head(*(tensors[f"{side}.{name}"] for name in _TORCH_NAMES))
