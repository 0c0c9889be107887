"""What the stages of protocol A share: pairs, caption features, and the image encoder that is trained."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from raydd.config import Config
from raydd.data import CaptionFeatures, DataSet, ImageEncoder, encode_texts, load_image_encoder, open_pixels
from raydd.data.encoders import image_identity
from raydd.distill.encoder_passes import TrainedEncoder
from raydd.distill.selections.random_pairs import random_captions
from raydd.distill.start import start_of
from raydd.distill.synthetic import SyntheticSet
from raydd.errors import ConfigError
from raydd.place import device_of, images_at_once
from raydd.progress import Progress, silent
from raydd.stages.features import pairs as load_pairs
from raydd.store import Store


@dataclass(frozen=True)
class EncoderBench:
    """Everything but the experts."""

    config: Config
    store: Store
    data: DataSet
    captions: CaptionFeatures
    progress: Progress

    @cached_property
    def encoder(self) -> ImageEncoder:
        """The image encoder with the parameters that it was trained in: no batch norm is folded.

        Raises:
            ConfigError: a width that it does not have was asked for.
        """
        encoder = load_image_encoder(self.config.encoders, self.device, trained=True)
        if self.config.experts.width not in (0, encoder.width):
            raise ConfigError(
                f"experts.width is {self.config.experts.width}, but under distill.protocol encoder the image encoder's "
                f"features are the shared space, {encoder.width} wide. Leave it 0."
            )
        return encoder

    @property
    def identity(self) -> str:
        """What the image encoder depends on; builds no network."""
        return f"{image_identity(self.config.encoders)} {self.config.encoders.precision}"

    @property
    def device(self) -> str:
        """Where to compute."""
        return device_of(self.config.place)

    @property
    def trained(self) -> TrainedEncoder:
        """The image encoder as a function of its weights."""
        at_once = images_at_once(self.config.place, self.device)
        return TrainedEncoder(self.encoder.module, at_once, self.config.encoders.precision)

    def real_pairs(self, seed: int) -> tuple[Int[Tensor, "N"], UInt8[Tensor, "N 3 S S"]]:
        """As many captions of different training images as `distill.pairs`, drawn by seed, and those images."""
        captions = random_captions(self.captions.train.image_of_text, self.config.distill.pairs, seed)
        images = self.captions.train.image_of_text[captions].tolist()
        return captions, open_pixels([self.data.train.images[index] for index in images], self.encoder.size)

    def pretrained_features(self, pixels: UInt8[Tensor, "N 3 S S"]) -> Float[Tensor, "N d"]:
        """Features of images under the pretrained encoder, on the CPU."""
        parts = pixels.split(images_at_once(self.config.place, self.device))
        with torch.no_grad():
            return torch.cat([self.encoder.module(part.to(self.device) / 255).cpu() for part in parts])

    def real_set(self, seed: int, rates: tuple[float, float], loss: str, similarity: str = "identity") -> SyntheticSet:
        """Real pairs drawn by seed, as a set to learn from or to train students on; with their pixels."""
        settings = self.config.distill
        captions, pixels = self.real_pairs(seed)
        made = start_of(
            self.pretrained_features(pixels),
            self.captions.train,
            captions,
            seed=seed,
            rates=rates,
            similarity=similarity,
            rank=settings.rank,
            alpha=settings.alpha,
            loss=loss,
        )
        return replace(made, pixels=pixels)


def open_bench(config: Config, store: Store, progress: Progress = silent) -> EncoderBench:
    """Load what is needed, captions encoded where the store lacks them."""
    data = load_pairs(config, store, progress)
    return EncoderBench(config, store, data, encode_texts(config, data, store, progress), progress)
