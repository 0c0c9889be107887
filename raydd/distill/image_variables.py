"""What a distillation learns of the images, and how a student's gradient reaches it.

- `LearnedFeatures`: the image features themselves. Students train heads.
- `LearnedPixels`: pixels, seen through a frozen image encoder. Students train heads on their features.
- `TrainedPixels`: pixels, seen through an image encoder that students train too.

Letters: N synthetic pairs, S side in pixels, d width of the image encoder.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from raydd.config import DistillConfig
from raydd.device import in_tf32, on_all_cores, sent
from raydd.distill.crops import crop_images, draw_crops
from raydd.distill.encoder_gradient import matching_gradient
from raydd.distill.encoder_passes import TrainedEncoder
from raydd.distill.encoder_student import Networks
from raydd.distill.heads import centred
from raydd.distill.heads_gradient import heads_gradient
from raydd.distill.matching import LearnedPairs, StepLoss, StudentRun
from raydd.distill.objectives.objective import LossOfPairs, StudentGradient
from raydd.distill.synthetic import SyntheticSet
from raydd.errors import RecordError
from raydd.memory import free_bytes, kept_by_autograd

Encode = Callable[[Float[Tensor, "B 3 H W"]], Float[Tensor, "B d"]]
KEPT_GRAPH_BYTES = 1_500_000_000  # limit for the graphs that `EncodedPixels` keeps on a CPU


def kept_bytes(device: str) -> int:
    """Return the limit in bytes for the graphs that `EncodedPixels` keeps: on a GPU half of the free memory."""
    return free_bytes(device) // 2 if device.startswith("cuda") else KEPT_GRAPH_BYTES


@dataclass(frozen=True)
class Spread:
    """Statistics of each dimension of the real image features on which heads train."""

    moments: Float[Tensor, "2 d"]
    """Mean and standard deviation. Under Adam the deviation is the unit of learned features; both define the noise."""
    range: Float[Tensor, "2 d"]
    """Smallest and largest value: learned features are pulled back towards this range."""


@dataclass(frozen=True)
class ImageStart:
    """The image variable before the first step."""

    value: Tensor
    """The learned values: N rows of features, or of pixels in 0 to 1."""
    unit: Tensor
    """The unit of the variable: the engine stores value / unit."""
    range: Tensor
    """Smallest and largest value, along a first axis of two."""
    pull: float
    """Fraction by which out-of-range values move back to their range after each step (0: free, 1: clamp)."""


@dataclass(frozen=True)
class DistillationStep:
    """A distillation step after its random draws."""

    loss_of: LossOfPairs
    """Computes the objective's loss and its gradients at the pairs."""
    last_of_encoding: bool
    """Whether learned pixels move after this step (`distill.steps_per_encoding`)."""
    used: Callable[[], Int[Tensor, "U"]]
    """Returns the pairs that are used by the steps until the pixels move next."""
    crops_seed: int
    """Seed of the crops of learned pixels; the same until the pixels move next."""


class ImageVariable(ABC):
    """What is learned of the images. It may keep state between steps, so each distillation needs its own."""

    block: ClassVar[bool] = False
    """Whether Adam keeps one second moment for the whole variable (see `OuterStep`)."""
    student_gradient: StudentGradient = staticmethod(heads_gradient)
    """Gradient through the students that see these images: they train heads, unless the encoder is trained too."""
    noise: Float[Tensor, "2 d"] | None = None
    """Mean and standard deviation of the noise for `distill.blend` noise; None: the variable has no such noise."""

    @abstractmethod
    def begin(self, start: SyntheticSet, config: DistillConfig, /) -> ImageStart:
        """Return the variable's start values, taken from the start set.

        Raises:
            RecordError: the start set lacks the values to be learned.
        """

    def loss(self, step: DistillationStep, pairs: LearnedPairs) -> StepLoss:
        """Return the step's loss and its gradient at the pairs, whose `images` are the value of this variable.

        Raises:
            NonFiniteError: the expert did not move between start and target.
        """
        return step.loss_of(pairs)

    @abstractmethod
    def pixels_and_features(self, value: Tensor) -> tuple[UInt8[Tensor, "N 3 S S"] | None, Float[Tensor, "N d"]]:
        """Return the pixels as 8-bit numbers, None if no pixels are learned, and the image features."""

    def state(self) -> dict[str, Tensor]:
        """Return what `resume` needs in addition to the variable, on the CPU."""
        return {}

    def resume(self, state: Mapping[str, Tensor], device: str) -> None:  # noqa: B027 - most keep nothing
        """Continue from what `state` returned."""


class LearnedFeatures(ImageVariable):
    """Learned image features."""

    block = True

    def __init__(self, spread: Spread) -> None:
        """Learn image features.

        Args:
            spread: statistics of the real image features.
        """
        self.noise, self._spread = spread.moments, spread
        self._centre: Tensor | None = None

    def begin(self, start: SyntheticSet, config: DistillConfig, /) -> ImageStart:
        """Return the start set's features, under Adam in units of each dimension's standard deviation."""
        self._centre = start.image_centre
        deviation = self._spread.moments[1]
        unit = deviation if config.optimizer == "adam" else torch.ones_like(deviation)
        return ImageStart(centred(start.image_features, self._centre), unit, self._spread.range, config.range_pull)

    def pixels_and_features(self, value: Tensor) -> tuple[None, Float[Tensor, "N d"]]:
        """Return None for the pixels, and the features."""
        return None, value if self._centre is None else value + self._centre.to(value)


class LearnedPixels(ImageVariable):
    """Learned pixels, seen through a frozen image encoder.

    The pixels are encoded once in `distill.steps_per_encoding` steps. Until they move, each step adds its gradient at
    the pixels' features to a sum. Then one backward pass through the encoder turns the sum into the gradient at the
    pixels. The gradient norm that a step reports is the norm at the features. With `distill.least_crop` below 1, crops
    of the images are encoded (`raydd.distill.crops`). Pixels that are not learned (`distill.image_lr` 0) are encoded
    once for all steps, unless crops are.
    """

    def __init__(self, encode: Encode, unit: Float[Tensor, "3 1 1"], batch: int, spread: Spread) -> None:
        """Learn pixels.

        Args:
            encode: the frozen image encoder, from pixels in 0 to 1.
            unit: the standard deviation by which the encoder normalises pixels.
            batch: largest number of images whose graph fits in memory.
            spread: statistics of the real image features.
        """
        self.noise, self._encode, self._unit, self._batch = spread.moments, encode, unit, batch
        self._least_crop = 1.0
        self._centre: Tensor | None = None
        self._encoded: EncodedPixels | None = None  # the pixels' features, until the pixels move
        self._features: Float[Tensor, "N d"] | None = None  # of pixels that never move
        # The features' gradient, summed since the pixels last moved.
        self._pending_gradient: Float[Tensor, "N d"] | None = None

    def begin(self, start: SyntheticSet, config: DistillConfig, /) -> ImageStart:
        """Return the start set's pixels in units of the encoder's standard deviation, as published."""
        self._least_crop, self._centre = config.least_crop, start.image_centre
        return _start_from_pixels(start, self._unit)

    def loss(self, step: DistillationStep, pairs: LearnedPairs) -> StepLoss:
        """Return the loss; its gradient at the pixels is only computed in the last step before they move."""
        if not pairs.images.requires_grad and self._least_crop == 1:
            if self._features is None:
                self._features = _encode_in_batches(pairs.images, self._encode_centred, self._batch)
            return step.loss_of(replace(pairs, images=self._features))
        if self._encoded is None:
            count, least_area = len(pairs.images), self._least_crop
            crops = sent(draw_crops(count, least_area, step.crops_seed), pairs.device) if least_area < 1 else None
            self._encoded = EncodedPixels(
                self._encode_centred, pairs.images, self._batch, step.used(), crops, learned=pairs.images.requires_grad
            )
        encoded, learned = self._encoded, pairs.images.requires_grad
        features = encoded.features if learned else encoded.features.detach()
        step_loss = step.loss_of(replace(pairs, images=features))
        at_features = step_loss.gradients.pop("image", None)
        if at_features is not None:
            self._pending_gradient = (
                at_features if self._pending_gradient is None else self._pending_gradient + at_features
            )
            step_loss = replace(step_loss, norms={"image": at_features.norm()})
            if step.last_of_encoding:
                step_loss.gradients["image"] = encoded.gradient(self._pending_gradient)
        if step.last_of_encoding:
            self._encoded, self._pending_gradient = None, None
        return step_loss

    def _encode_centred(self, pixels: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B d"]:
        """Return the features on which heads train."""
        return centred(self._encode(pixels), self._centre)

    def pixels_and_features(self, value: Tensor) -> tuple[UInt8[Tensor, "N 3 S S"], Float[Tensor, "N d"]]:
        """Return the pixels as 8-bit numbers, and the features of these 8-bit pixels."""
        return _round_to_eight_bits(value, self._encode, self._batch)

    def state(self) -> dict[str, Tensor]:
        """Return the summed gradient along which the pixels have not yet moved."""
        return {} if self._pending_gradient is None else {"owed": self._pending_gradient.cpu()}

    def resume(self, state: Mapping[str, Tensor], device: str) -> None:
        """Continue from what `state` returned."""
        self._encoded, self._pending_gradient = None, state["owed"].to(device) if "owed" in state else None


class TrainedPixels(ImageVariable):
    """Learned pixels, seen through an image encoder that experts and students train too."""

    def __init__(self, encoder: TrainedEncoder, unit: Float[Tensor, "3 1 1"]) -> None:
        """Learn pixels.

        Args:
            encoder: the image encoder, on the distillation's device.
            unit: the standard deviation by which the encoder normalises pixels.
        """
        self._encoder, self._unit = encoder, unit
        self.student_gradient = partial(_trained_encoder_gradient, encoder)

    def begin(self, start: SyntheticSet, _config: DistillConfig, /) -> ImageStart:
        """Return the start set's pixels in units of the encoder's standard deviation, as published."""
        return _start_from_pixels(start, self._unit)

    def pixels_and_features(self, value: Tensor) -> tuple[UInt8[Tensor, "N 3 S S"], Float[Tensor, "N d"]]:
        """Return the pixels as 8-bit numbers, and the features of these pixels under the pretrained encoder."""
        return _round_to_eight_bits(value, self._encoder.module, self._encoder.at_once)


def _trained_encoder_gradient(
    encoder: TrainedEncoder, run: StudentRun, leg: tuple[Networks, Networks], pairs: LearnedPairs
) -> StepLoss:
    start, target = (networks.to(pairs.device) for networks in leg)
    return matching_gradient(encoder, replace(run, plan=run.plan.to(pairs.device)), start, target, pairs)


def _start_from_pixels(start: SyntheticSet, unit: Float[Tensor, "3 1 1"]) -> ImageStart:
    if start.pixels is None:
        raise RecordError("A distillation on pixels needs pixels to start from. Start from a set that has them.")
    limits = torch.stack([torch.zeros_like(unit), torch.ones_like(unit)])
    return ImageStart(start.pixels.float() / 255, unit, limits, pull=1.0)


def _round_to_eight_bits(
    value: Tensor, encode: Encode, batch: int
) -> tuple[UInt8[Tensor, "N 3 S S"], Float[Tensor, "N d"]]:
    """Return the pixels as they are stored, on the CPU, and the encoder's features of them."""
    pixels = (value * 255).round().clamp(0, 255).to(torch.uint8)
    return pixels.cpu(), _encode_in_batches(pixels.float() / 255, encode, batch)


@in_tf32()
def _encode_in_batches(pixels: Float[Tensor, "N 3 S S"], encode: Encode, batch: int) -> Float[Tensor, "N d"]:
    """Return the features of pixels from 0 to 1, without a graph."""
    with torch.no_grad():
        return torch.cat([encode(images) for images in pixels.split(batch)])


class EncodedPixels:
    """Features of the pixels that some distillation steps use, as a leaf tensor for the heads' gradient.

    Batches keep their graph until `gradient` is called, as long as all graphs take less than `kept_bytes`; the first
    batch always keeps it. Other batches are encoded without a graph, and encoded again in `gradient`.
    """

    @in_tf32()
    def __init__(
        self,
        encode: Encode,
        pixels: Float[Tensor, "N 3 H W"],
        batch: int,
        used: Int[Tensor, "U"] | None = None,
        crops: Float[Tensor, "N 2 3"] | None = None,
        *,
        learned: bool = True,
    ) -> None:
        """Encode the pixels.

        Args:
            encode: the image encoder, from pixels in 0 to 1.
            pixels: all synthetic images.
            batch: largest number of images whose graph fits in memory.
            used: the images that are needed; None: all. The features of the other images are zeros.
            crops: the crop of each image that the encoder sees; None: the whole images.
            learned: whether `gradient` will be called; if not, no graph is kept.
        """
        used = torch.arange(len(pixels)) if used is None else used
        used = sent(used, str(pixels.device))
        self._encode, self._crops = encode, crops
        self._pixels, self._device = pixels.detach(), pixels.device.type
        batches = used.split(batch)
        # A CPU takes the same way without a gradient, since features with a graph differ in their last bits.
        self._kept_batches = self._encode_keeping_graphs(batches) if learned or self._device == "cpu" else []
        self._other_batches = batches[len(self._kept_batches) :]
        # no_grad applies to a single thread, so each thread has to enter it.
        other_features = on_all_cores(
            torch.no_grad()(lambda index: self._encode_images(self._pixels[index], index)),
            self._other_batches,
            self._device,
        )
        features = torch.cat([*(encoded.features.detach() for encoded in self._kept_batches), *other_features])
        self.features = (
            features.new_zeros(len(pixels), features.shape[1]).index_copy_(0, used, features).requires_grad_()
        )
        if not learned:
            self._kept_batches = []

    def _encode_keeping_graphs(self, batches: Sequence[Int[Tensor, "_"]]) -> list["_EncodedBatch"]:
        """Encode the first batch, and as many of the others as may keep their graphs."""
        most_bytes = kept_bytes(str(self._pixels.device))
        first_encoded, nbytes = kept_by_autograd(lambda: self._encode_with_graph(batches[0]))
        num_kept = most_bytes // max(1, nbytes) - 1 if nbytes < most_bytes else 0
        return [first_encoded, *on_all_cores(self._encode_with_graph, batches[1 : 1 + num_kept], self._device)]

    @in_tf32()
    def gradient(self, at_features: Float[Tensor, "N d"]) -> Float[Tensor, "N 3 H W"]:
        """Return the gradient at the pixels, given the one at the features. Can be called only once."""
        gradient = torch.zeros_like(self._pixels)

        def backward(batch: _EncodedBatch) -> None:
            gradient[batch.index] = torch.autograd.grad(batch.features, batch.pixels, at_features[batch.index])[0]

        on_all_cores(backward, self._kept_batches, self._device)
        del self._kept_batches
        on_all_cores(lambda index: backward(self._encode_with_graph(index)), self._other_batches, self._device)
        return gradient

    def _encode_with_graph(self, index: Int[Tensor, "B"]) -> "_EncodedBatch":
        pixels = self._pixels[index].requires_grad_()
        return _EncodedBatch(index, pixels, self._encode_images(pixels, index))

    def _encode_images(self, pixels: Float[Tensor, "B 3 H W"], index: Int[Tensor, "B"]) -> Float[Tensor, "B d"]:
        """Return the features of these images, or of their crops."""
        return self._encode(pixels if self._crops is None else crop_images(pixels, self._crops[index]))


@dataclass(frozen=True)
class _EncodedBatch:
    """A batch and its graph."""

    index: Int[Tensor, "B"]
    pixels: Float[Tensor, "B 3 H W"]
    features: Float[Tensor, "B d"]
