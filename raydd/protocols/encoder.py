"""Protocol A, as published for MTT-VL, TESLA-VL and LoRS: trains the image encoder and a text head from pixels.

The text encoder stays frozen, so captions are encoded once. The image encoder has no projection head: the space of its
features is the shared space.
"""

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from raydd.config import DistillConfig
from raydd.cost.bytes import SINGLE, encoder_memory_bytes, feature_bytes, parameters_of, second_graph_bytes
from raydd.data import ImageEncoder, ImageSource, ViewsOf, load_image_encoder, open_views, texts_record
from raydd.data.augment import transform_of
from raydd.data.encoders import image_identity
from raydd.data.encoding import batches_of, workers_for
from raydd.device import in_tf32
from raydd.distill import encoder_experts as trajectories
from raydd.distill.encoder_experts import EncoderExperts, minibatches
from raydd.distill.encoder_passes import TrainedEncoder
from raydd.distill.encoder_student import Networks
from raydd.distill.engine import Distillation
from raydd.distill.heads import Head, embed, to_sphere
from raydd.distill.image_variables import TrainedPixels
from raydd.distill.selections.random_pairs import random_captions
from raydd.distill.synthetic import SyntheticSet, start_of
from raydd.distill.trajectories import Trajectories, content_of, extend
from raydd.errors import ConfigError
from raydd.evaluate.encoder_students import embed_pairs, hits_of_networks, train_student
from raydd.protocols.base import HeldOutSplit, Workbench
from raydd.protocols.student_modules import EncoderModule, HeadModule, head_tensors
from raydd.store import Record

_REAL_RATE, _REAL_TEXT_RATE = 0.03, 0.3  # for students of real pairs; a multiple of the first is chosen on val


class EncoderWorkbench(Workbench[Networks]):
    """The workbench of protocol A. Images cannot be cached: they pass through the trained encoder each time."""

    trains = "text encoder frozen, image encoder and text head trained from pixels"
    selections: ClassVar[Collection[str]] = ("random",)  # the others read cached image features
    image_settings: ClassVar[Mapping[str, Collection[str]]] = {"pixels": ("encoder_rate",)}
    batches_students: ClassVar[bool] = False
    closed_form: ClassVar[bool] = False  # images have no features
    cached: ClassVar[Collection[str]] = ("texts",)
    trial_settings: ClassVar[Mapping[str, Any]] = {}  # this protocol learns pixels only

    @property
    def image_encoder(self) -> ImageEncoder:
        """The image encoder with its original parameters: no batch norm is folded.

        Raises:
            ConfigError: `experts.width` is another width than the encoder's.
        """
        encoders = self.config.encoders
        encoder = self.opened.once(
            ("trained image encoder", encoders, self.device),
            lambda: load_image_encoder(encoders, self.device, trained=True),
        )
        if self.config.experts.width not in (0, encoder.width):
            raise ConfigError(
                f"experts.width is {self.config.experts.width}, but under distill.protocol encoder the image encoder's "
                f"features are the shared space, {encoder.width} wide. Leave it 0."
            )
        return encoder

    @property
    def trained_encoder(self) -> TrainedEncoder:
        """The image encoder as a function of its weights."""
        return TrainedEncoder(self.image_encoder.module, self.images_at_once, self.config.encoders.precision)

    @property
    def source(self) -> str:
        """Name of the record of caption features."""
        return self.captions.fingerprint

    @property
    def is_prepared(self) -> bool:
        """Whether all captions are encoded."""
        return texts_record(self.config, self.data.fingerprint, self.store).complete

    def prepare(self) -> None:
        """Encode the captions that are missing from the store."""
        _ = self.captions

    def prepared_in_words(self) -> str:
        """Return the number and width of the caption features, in a sentence."""
        texts = self.captions.train.texts
        return (
            f"text features {self.source}: {len(texts)} training captions, {texts.width} wide. Images are not encoded "
            f"beforehand, since their encoder is trained. Kept in {self.store.root}."
        )

    @property
    def width(self) -> int:
        """Width of the image encoder's features."""
        return self.image_encoder.width

    @property
    def reads(self) -> str:
        """The number of captions, in words; images are read as pixels."""
        return f"{len(self.data.train.captions)} training captions; images are read as pixels"

    @property
    def feature_widths(self) -> tuple[int, int] | None:
        """None, since images are not cached."""
        return None

    @property
    def experts_record(self) -> Record:
        """The record of the trajectories of this recipe on these pairs; builds no network."""
        recipe = self.config.experts
        settings = {
            **self.student_content,
            "augment": self.config.features.augment,
            **content_of(recipe),
            "encoder_lr": recipe.encoder_lr,
        }
        upstream = {"texts": self.source}
        return Record.of(self.store, "experts", settings, upstream, version=trajectories.VERSION)

    def open_experts(self, count: int = 0) -> EncoderExperts:
        """Return the trajectories of this recipe on these pairs."""
        return self._open_trajectories(self.experts_record, self.captions.width, count or self.config.experts.count)

    def experts_in(self, record: Record, pairs: SyntheticSet) -> EncoderExperts:
        """Return the trajectories of a record that a set names."""
        return self._open_trajectories(record, pairs.text_features.shape[1], self.config.experts.count)

    def _open_trajectories(self, record: Record, text_width: int, count: int) -> EncoderExperts:
        pretrained = {name: weight.cpu() for name, weight in self.trained_encoder.start.items()}
        return EncoderExperts(record, pretrained, text_width, self.width, self.config.experts.seed, count)

    def train_experts(self, experts: Trajectories[Networks], numbers: Sequence[int], epochs: Collection[int]) -> None:
        """Train the given experts, one after the other, up to the snapshots of the given epochs."""
        for expert in numbers:
            self._train_expert(experts, expert, epochs)

    def _train_expert(self, experts: Trajectories[Networks], expert: int, epochs: Collection[int]) -> None:
        recipe, texts = self.config.experts, self.captions.train.texts
        per_epoch = len(minibatches(len(texts), recipe.batch_size, seed=0))
        total = experts.count * max(epochs) * per_epoch

        def train_epoch(
            states: Sequence[Networks], epoch: int, seeds: Sequence[int]
        ) -> tuple[list[float], list[Networks]]:
            (networks,), (seed,) = states, seeds
            minibatch_numbers = itertools.count((expert * max(epochs) + epoch - 1) * per_epoch + 1)
            loss, trained_networks = trajectories.train_epoch(
                self.trained_encoder,
                networks,
                self._minibatches(seed),
                texts,
                recipe,
                lr_multipliers=recipe.lr_multipliers(epoch, per_epoch),
                seed=seed,
                device=self.device,
                on_batch=lambda: self.progress("minibatches of experts", next(minibatch_numbers), total),
            )
            return [loss], [trained_networks]

        extend(experts, [expert], epochs, train_epoch)

    def select(self, selection: str, pairs: int, seed: int) -> Int[Tensor, "N"]:  # noqa: ARG002 - always random
        """Draw captions of different training images by seed."""
        return random_captions(self.captions.train.image_of_text, pairs, seed)

    def selection_cost(self, selection: str, pairs: int, seed: int) -> Mapping[str, Any]:  # noqa: ARG002
        """Return nothing, since a random draw takes no time."""
        return {}

    def real_set(
        self,
        captions: Int[Tensor, "N"],
        rates: tuple[float, float],
        *,
        seed: int = 0,
        similarity: str = "identity",
        loss: str = "infonce",
        with_pixels: bool = True,  # noqa: ARG002 - students train on them
    ) -> SyntheticSet:
        """Return real pairs with their pixels, and with the pretrained encoder's features of these pixels."""
        texts, images = self.captions.train, self.data.train.images
        pixels = self.pixels_of([images[index] for index in texts.image_of_text[captions].tolist()])
        with torch.no_grad(), in_tf32():
            features = [
                self.image_encoder.module(batch.to(self.device) / 255) for batch in pixels.split(self.images_at_once)
            ]
        return start_of(
            torch.cat([batch.cpu() for batch in features]),
            texts,
            captions,
            seed=seed,
            rates=rates,
            similarity=similarity,
            rank=self.config.distill.similarity_rank,
            alpha=self.config.distill.alpha,
            loss=loss,
            pixels=pixels,
        )

    @property
    def start_rates(self) -> tuple[float, float]:
        """Start learning rates of the image encoder and of the text head."""
        return self.config.distill.encoder_rate, self.config.distill.start_rate

    def real_rates_at(self, multiple: float) -> tuple[float, float]:
        """Learning rates of image encoder and text head; only that of the image encoder is multiplied."""
        return multiple * _REAL_RATE, _REAL_TEXT_RATE

    def begin(self, settings: DistillConfig, start: SyntheticSet) -> Distillation:
        """Return a distillation of pixels through an encoder that the student trains."""
        return Distillation(
            start,
            self.experts(),
            settings,
            TrainedPixels(self.trained_encoder, self.image_encoder.pixel_std),
            text_spread=self.captions.spread,
            temperature=settings.temperature or self.config.experts.temperature,
            device=self.device,
        )

    def train_students(
        self,
        pairs: SyntheticSet,
        seeds: Sequence[int],
        on_epoch: Callable[[int, Callable[[], Networks]], None] = lambda epoch, students: None,
    ) -> Iterator[Networks]:
        """Train one student after the other, since each has its own image encoder."""
        for number, seed in enumerate(seeds):
            yield train_student(
                self.trained_encoder,
                pairs,
                self.config.students,
                temperature=self.config.experts.temperature,
                seed=seed,
                device=self.device,
                on_epoch=on_epoch,
            )
            self.progress("students", number + 1, len(seeds))

    def hits(self, networks: Networks, split: HeldOutSplit) -> list[Int[Tensor, "I 7"]]:
        """Return what one student finds, with images embedded by its own encoder."""
        texts = {"val": self.captions.val, "test": self.captions.test}[split]
        images = {"val": self.data.val, "test": self.data.test}[split].images
        image_batches, text_features = self._load_batches(images), texts.texts.whole()
        return [
            hits_of_networks(
                self.trained_encoder, networks, image_batches, text_features, texts.image_of_text, device=self.device
            )
        ]

    def ridge_scores(self, *_: Any, **__: Any) -> None:
        """Return None: students train the image encoder, so images have no fixed features."""
        return

    def on_device(self, networks: Networks) -> Networks:
        """Return image encoder and text head on the workbench's device."""
        return networks.to(self.device)

    def embed(self, snapshot: Networks, pairs: SyntheticSet) -> tuple[Float[Tensor, "N D"], Float[Tensor, "N D"]]:
        """Embed the set's pixels with the encoder and its text features with the text head."""
        return embed_pairs(self.trained_encoder, snapshot, pairs, device=self.device)

    memory_help: ClassVar[str] = "encoders.image_size"

    @property
    def parameters(self) -> int:
        """Number of parameters of the image encoder and the text head."""
        encoder = self.image_encoder
        return parameters_of(self.config, encoder.width, self.text_encoder.width, encoder.module)

    @property
    def prepared_bytes(self) -> int:
        """Bytes of the caption features in half precision."""
        captions = sum(len(split.captions) for split in self.data.splits)
        return feature_bytes(0, 0, 1, self.image_encoder.width, captions, self.text_encoder.width)

    @property
    def memory_bytes(self) -> int:
        """Bytes of several copies of the encoder's weights, and of the second derivative's autograd graph."""
        encoder = self.image_encoder
        return encoder_memory_bytes(
            self.config,
            self.parameters,
            graph=second_graph_bytes(encoder.module, encoder.size, self.device),
            images=min(self.images_at_once, self.config.distill.minibatch_size),
        )

    def gallery(self, images: Sequence[ImageSource], name: str) -> Sequence[ImageSource]:  # noqa: ARG002
        """Return the images themselves, since each student has its own encoder."""
        return images

    def embed_images(self, networks: Networks, gallery: Sequence[ImageSource]) -> Float[Tensor, "1 n D"]:
        """Embed the images with the student's encoder."""
        weights = networks.to(self.device).image
        with torch.no_grad(), in_tf32():
            embeddings = [
                self.trained_encoder(weights, batch.to(self.device) / 255) for batch in self._load_batches(gallery)
            ]
        return to_sphere(torch.cat(embeddings))[None].cpu()

    def embed_texts(self, networks: Networks, features: Float[Tensor, "m e"]) -> Float[Tensor, "1 m D"]:
        """Embed text features with the student's text head."""
        with torch.no_grad():
            return embed(Head(**networks.to(self.device).text), features.to(self.device))[None].cpu()

    def student_tensors(self, networks: Networks) -> dict[str, Tensor]:
        """Return the image encoder's trained weights, and the text head."""
        weights = {f"image_encoder.{name}": weight.cpu().contiguous() for name, weight in networks.image.items()}
        return weights | head_tensors("text", Head(**networks.text))

    def student_modules(self, networks: Networks) -> tuple[nn.Module, nn.Module]:
        """Return the image encoder with the student's weights, and the text head."""
        # A new copy, not the shared encoder, since its weights are replaced.
        encoder = load_image_encoder(self.config.encoders, "cpu", trained=True)
        trained_encoder = TrainedEncoder(encoder.module, self.images_at_once)
        return EncoderModule(trained_encoder, networks.image), HeadModule(Head(**networks.text))

    @property
    def student_content(self) -> Mapping[str, Any]:
        """Temperature, and the pretrained image encoder that students start with; builds no network."""
        encoders = self.config.encoders
        image = f"{image_identity(encoders)} {encoders.precision}"
        return {"protocol": "encoder", "image": image, "temperature": self.config.experts.temperature}

    def real_size(self, pairs: int) -> tuple[int, int]:
        """Return the size of 8-bit pixels and of text features in single precision."""
        images, texts = (pairs, pairs) if pairs else (len(self.data.train), len(self.captions.train.texts))
        pixels, features = images * 3 * self.image_encoder.size**2, texts * self.captions.width
        return pixels + features, pixels + SINGLE * features

    def _minibatches(self, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield an epoch's minibatches: captions, and an augmented view of each image, seeded by (seed, caption)."""
        train, features = self.data.train, self.config.features
        images = [train.images[index] for index in train.image_of_caption.tolist()]
        views = ViewsOf(images, transform_of(features.augment, self.image_encoder.size), 1, seed)
        batches = minibatches(len(images), self.config.experts.batch_size, seed)
        for captions, pixels in zip(batches, open_views(views, batches, workers=self._decoding_workers), strict=True):
            yield torch.tensor(captions), pixels[:, 0]

    def _load_batches(self, images: Sequence[ImageSource]) -> Iterator[UInt8[Tensor, "_ 3 S S"]]:
        """Yield the images in batches, resized without augmentation."""
        views = ViewsOf(images, transform_of("none", self.image_encoder.size), 1, 0)
        batches = batches_of(range(len(images)), self.images_at_once)
        for pixels in open_views(views, batches, workers=self._decoding_workers):
            yield pixels[:, 0]

    @property
    def _decoding_workers(self) -> int:
        """Number of decoding processes on a GPU machine; 0 on a CPU, whose cores are busy training."""
        return 0 if self.device == "cpu" else workers_for(self.device)
