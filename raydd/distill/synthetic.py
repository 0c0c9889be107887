"""The synthetic set: the result of a distillation, on which students train, and the real pairs that it starts from."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, Self

import torch
from jaxtyping import Float, Int, UInt8
from torch import Generator, Tensor

from raydd.data.feature_rows import CaptionRows
from raydd.distill.set_shapes import FACTOR, LOSS, require_consistent
from raydd.distill.similarity import Similarity


@dataclass(frozen=True)
class SyntheticSet:
    """N synthetic pairs, their similarity matrix, and the learning rates for students."""

    image_features: Float[Tensor, "N d"]
    """Encoder outputs for the 8-bit pixels of the synthetic images; learned features if the set has no pixels."""
    text_features: Float[Tensor, "N e"]
    similarity: Similarity
    rate_image: float
    """Learning rate of the student's image head."""
    rate_text: float
    """Learning rate of the student's text head."""
    loss: str
    """Name of the loss that students are to train on (`raydd.distill.losses.find_loss`)."""
    start_images: Int[Tensor, "N"]
    """Training images that the pairs started from."""
    start_captions: Int[Tensor, "N"]
    """Training captions that the pairs started from."""
    pixels: UInt8[Tensor, "N 3 H W"] | Float[Tensor, "N 3 H W"] | None = None
    """The synthetic images, 0 to 255, in 8 bits unless other code made them; None if only features were learned."""
    loss_parameters: Mapping[str, float] = field(default_factory=dict)
    """Learned values of the loss's own parameters, by name."""
    image_centre: Float[Tensor, "d"] | None = None
    """What students subtract from all image features (`features.centre`); None: nothing."""

    def __len__(self) -> int:
        return len(self.text_features)

    def at_multiple(self, multiple: float) -> Self:
        """Return the set with both learning rates multiplied."""
        return replace(self, rate_image=multiple * self.rate_image, rate_text=multiple * self.rate_text)

    @property
    def stored_bytes(self) -> int:
        """Size in bytes of what a student needs: pixels (or else image features), text features, similarity, two
        learning rates, the loss's parameters and the centre."""
        return sum(part.numel() * part.element_size() for part in self._stored) + 16 + 8 * len(self.loss_parameters)

    @property
    def stored_numbers(self) -> int:
        """How many numbers `stored_bytes` counts; each channel of a pixel is one number."""
        return sum(part.numel() for part in self._stored) + 2 + len(self.loss_parameters)

    @property
    def _stored(self) -> list[Tensor]:
        images = self.image_features if self.pixels is None else self.pixels
        centre = [] if self.image_centre is None else [self.image_centre]
        return [images, self.text_features, *self.similarity.factors.values(), *centre]

    def tensors(self) -> dict[str, Tensor]:
        """Return everything as named tensors, for safetensors."""
        named = {
            "image_features": self.image_features,
            "text_features": self.text_features,
            "rates": torch.tensor([self.rate_image, self.rate_text], dtype=torch.float64),
            "start_images": self.start_images,
            "start_captions": self.start_captions,
            "similarity_matrix": self.similarity.matrix(),
            **{FACTOR + name: factor for name, factor in self.similarity.factors.items()},
            **{LOSS + name: torch.tensor(value, dtype=torch.float64) for name, value in self.loss_parameters.items()},
        }
        if self.pixels is not None:
            named["pixels"] = self.pixels
        if self.image_centre is not None:
            named["image_centre"] = self.image_centre
        return named

    def facts(self) -> dict[str, Any]:
        """Return the facts that are missing from the tensors."""
        return {"similarity": self.similarity.kind, "alpha": self.similarity.alpha, "loss": self.loss}

    @classmethod
    def of_tensors(cls, tensors: dict[str, Tensor], facts: dict[str, Any]) -> Self:
        """Return the set that has these `tensors` and `facts`.

        Raises:
            RecordError: tensors or facts are missing or do not fit together.
        """
        require_consistent(tensors, facts)
        factors = {name.removeprefix(FACTOR): part for name, part in tensors.items() if name.startswith(FACTOR)}
        similarity = Similarity(facts["similarity"], len(tensors["text_features"]), factors, facts["alpha"])
        rate_image, rate_text = tensors["rates"].tolist()
        return cls(
            tensors["image_features"],
            tensors["text_features"],
            similarity,
            rate_image,
            rate_text,
            facts["loss"],
            tensors["start_images"],
            tensors["start_captions"],
            tensors.get("pixels"),
            {name.removeprefix(LOSS): float(part) for name, part in tensors.items() if name.startswith(LOSS)},
            tensors.get("image_centre"),
        )


class Captions(Protocol):
    """Caption features of a split, and the image of each caption."""

    @property
    def texts(self) -> CaptionRows:
        """Caption features."""
        ...

    @property
    def image_of_text(self) -> Int[Tensor, "C"]:
        """Index of each caption's image."""
        ...


def start_of(
    image_features: Float[Tensor, "N d"],
    split: Captions,
    captions: Int[Tensor, "N"],
    *,
    seed: int,
    rates: tuple[float, float],
    similarity: str,
    rank: int = 1,
    alpha: float = 1.0,
    loss: str,
    pixels: UInt8[Tensor, "N 3 S S"] | None = None,
    image_centre: Float[Tensor, "d"] | None = None,
) -> SyntheticSet:
    """Return real pairs as a synthetic set: their features, the identity as similarity, a learning rate per side."""
    generator = Generator().manual_seed(seed)
    return SyntheticSet(
        image_features,
        split.texts[captions].float(),
        Similarity.start(similarity, len(captions), rank=rank, alpha=alpha, generator=generator),  # type: ignore[arg-type]
        *rates,
        loss,
        split.image_of_text[captions],
        captions,
        pixels,
        image_centre=image_centre,
    )
