"""A workbench: one run with everything it reads opened lazily and once, and what is trained in it.

    work = raydd.open(config)
    work.data, work.captions        # the pairs, and their text features
    work.experts()                  # expert trajectories, those that the store lacks trained
    work.start(), work.begin(...)   # the real pairs to start from; a distillation at its start
    work.train_students(set, seeds) # fresh students of a synthetic set or of real pairs
    work.val_scores(students)       # their retrieval scores on val; test_scores are those on test

`raydd.protocols.heads` and `raydd.protocols.encoder` say what experts and students train. Everything above takes a
workbench and never asks which one it is.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Generic, Literal, Protocol, Self, TypeVar

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from raydd.config import Config, DistillConfig
from raydd.cpu_time import counted_as
from raydd.data import (
    CaptionFeatures,
    DataSet,
    ImageEncoder,
    TextEncoder,
    encode_texts,
    load_data,
    load_image_encoder,
    load_text_encoder,
    open_data,
    open_pixels,
)
from raydd.data.encoders import resized
from raydd.data.images import ImageSource
from raydd.distill.engine import Distillation
from raydd.distill.synthetic import SyntheticSet
from raydd.distill.trajectories import Trajectories
from raydd.errors import ConfigError, NonFiniteError
from raydd.evaluate.collapse import collapse_measures, encoder_similarities
from raydd.evaluate.retrieval import ScoresOnTest, ScoresOnVal, scores_of_hits
from raydd.place import device_of, images_at_once
from raydd.progress import Progress
from raydd.protocols.opened import Opened
from raydd.store import Record, Store

Networks = TypeVar("Networks")
"""What a student or an expert is: a pair of heads, or an image encoder and a text head."""
Trained = TypeVar("Trained")
HeldOutSplit = Literal["val", "test"]


class Choosing(Protocol[Trained]):
    """What a choice is given of a workbench: it trains students and scores them on val, and has no way to test."""

    batches_students: ClassVar[bool]
    """As `Workbench.batches_students`."""
    config: Config
    """All settings."""

    def train_at_multiples(self, pairs: SyntheticSet, multiples: Sequence[float]) -> Iterator[Trained | None]:
        """As `Workbench.train_at_multiples`."""
        ...

    def val_scores(self, networks: Trained) -> ScoresOnVal:
        """As `Workbench.val_scores`."""
        ...


class Workbench(ABC, Generic[Networks]):
    """One opened run. `Networks` is what one student, several side by side, or an expert's snapshot is made of."""

    trains: ClassVar[str]
    """What experts and students train, in words."""
    selections: ClassVar[Collection[str]]
    """Selections of real pairs that it can make."""
    image_settings: ClassVar[Mapping[str, Collection[str]]]
    """Settings of `distill` that not every image variable reads: by `distill.images`, the names of those read there."""
    batches_students: ClassVar[bool]
    """Whether students are one batched computation; else they train one after the other."""
    closed_form: ClassVar[bool]
    """Whether a set has a student in closed form, which `ridge_scores` scores."""
    cached: ClassVar[Collection[str]]
    """What `prepare` encodes: `images`, `texts`, the kinds of `raydd.data.shards_of`."""
    trial_settings: ClassVar[Mapping[str, Any]]
    """Settings of a sweep's trials: the cheapest form of a distillation that ranks settings."""

    def __init__(self, config: Config, store: Store, progress: Progress, opened: Opened) -> None:
        """Open nothing yet.

        Args:
            config: all settings.
            store: where records are read and written.
            progress: told of what is made.
            opened: shared with the workbenches of the same run.
        """
        self.config, self.store, self.progress, self.opened = config, store, progress, opened

    def with_progress(self, progress: Progress) -> Self:
        """The same workbench, telling another listener."""
        return type(self)(self.config, self.store, progress, self.opened)

    @property
    def device(self) -> str:
        """Where to compute."""
        return device_of(self.config.place)

    @property
    def data(self) -> DataSet:
        """The pairs, every image of them checked once."""
        return self.opened.once(("data", self.config.data), self._open_data)

    def _open_data(self) -> DataSet:
        settings, listings = self.config.data, self.opened.listings
        if settings in listings:
            return open_data(listings[settings], settings, self.store)
        found = load_data(settings, self.store, self.progress, check=self.opened.check)
        listings[settings] = found.listing
        return found

    @property
    def captions(self) -> CaptionFeatures:
        """Text features of all captions, encoded where the store lacks them."""
        encoders = self.config.encoders
        key = ("captions", self.data.fingerprint, encoders.text, encoders.text_weights, encoders.text_pooling)
        return self.opened.once(key, lambda: encode_texts(self.config, self.data, self.store, self.progress))

    @property
    def image_encoder(self) -> ImageEncoder:
        """The frozen image encoder, for inference and for gradients at its input."""
        encoders, device = self.config.encoders, self.device
        key = ("image encoder", encoders.image, encoders.image_weights, encoders.image_size, device)
        return self.opened.once(key, lambda: load_image_encoder(encoders, device))

    @property
    def text_encoder(self) -> TextEncoder:
        """The frozen text encoder."""
        encoders, device = self.config.encoders, self.device
        key = ("text encoder", encoders.text, encoders.text_weights, encoders.text_pooling, device)
        return self.opened.once(key, lambda: load_text_encoder(encoders, device))

    def require_enough_pairs(self, pairs: int = 0) -> None:
        """Refuse more pairs than there are training images, before anything is encoded or trained for them.

        Args:
            pairs: how many; 0 is `distill.pairs`.

        Raises:
            ConfigError: there are fewer training images than that.
        """
        wanted, there = pairs or self.config.distill.pairs, len(self.data.train)
        if wanted > there:
            raise ConfigError(f"distill.pairs is {wanted}, but train has {there} images. Lower distill.pairs.")

    @property
    @abstractmethod
    def source(self) -> str:
        """Name of the features that experts and selections are made from."""

    @property
    @abstractmethod
    def is_prepared(self) -> bool:
        """Whether the store has all that experts and distillations read of the data."""

    @abstractmethod
    def prepare(self) -> None:
        """Make what experts and distillations read of the data, where the store lacks it."""

    @abstractmethod
    def prepared_in_words(self) -> str:
        """What `prepare` made, in a sentence."""

    @property
    @abstractmethod
    def width(self) -> int:
        """Width D of the shared space."""

    @property
    @abstractmethod
    def reads(self) -> str:
        """What experts read of the data, in words."""

    @property
    @abstractmethod
    def feature_widths(self) -> tuple[int, int] | None:
        """Widths of the cached image and text features, by which time is estimated; None without a cache."""

    @property
    @abstractmethod
    def experts_record(self) -> Record:
        """The place of the trajectories of these settings; trains nothing."""

    def selection_content(self, selection: str) -> tuple[dict[str, Any], dict[str, str]]:
        """What decides a choice of real pairs beside its seed and their number: records are named by it.

        Returns:
            Settings, and the records that the choice is made from.
        """
        if selection == "random":  # which draws and trains nothing
            return {}, {"features": self.source}
        experts = self.experts_record.fingerprint  # whose recipe warms up the heads that others go by
        return {"first_expert": self.config.experts.seed}, {"features": self.source, "experts": experts}

    @abstractmethod
    def open_experts(self, count: int = 0) -> Trajectories[Networks]:
        """The trajectories of these settings, complete or not; `count` overrides `experts.count`."""

    @abstractmethod
    def experts_in(self, record: Record, pairs: SyntheticSet) -> Trajectories[Networks]:
        """The trajectories of a record that a set names as its own, whatever the settings here; reads no features."""

    @abstractmethod
    def train_experts(self, experts: Trajectories[Networks], numbers: Sequence[int], epochs: Collection[int]) -> None:
        """Train what these experts lack of these epochs."""

    def experts(self, count: int = 0, epochs: Collection[int] = ()) -> Trajectories[Networks]:
        """The experts that a distillation reads, those that the store lacks trained here or left to `have_expert`.

        Args:
            count: how many; 0 is `experts.count`.
            epochs: snapshots that must be there; those that the distillation reads if empty.
        """
        opened, epochs = self.open_experts(count), epochs or self.config.distill.expert_epochs
        if not self.opened.fetch and (missing := opened.missing(epochs)):
            self.train_experts(opened, missing, epochs)
        return opened

    def have_expert(self, experts: Trajectories[Networks], expert: int) -> None:
        """Have what a distillation reads of one of its experts in the store, if that was left for now."""
        if self.opened.fetch:
            with counted_as("experts"):
                self.opened.fetch(self, experts, expert)

    @property
    def missing_experts(self) -> list[int]:
        """The experts whose snapshots for this distillation are not all in the store."""
        return self.open_experts().missing(self.config.distill.expert_epochs)

    @abstractmethod
    def select(self, selection: str, pairs: int, seed: int) -> Int[Tensor, "N"]:
        """Captions of so many different training images that a selection chooses, kept in the store.

        Raises:
            ConfigError: there are fewer training images than that.
        """

    @abstractmethod
    def selection_cost(self, selection: str, pairs: int, seed: int) -> Mapping[str, Any]:
        """`seconds`, `cpu_seconds` and `peak_bytes` of a choice that was made; empty where a choice takes none."""

    @abstractmethod
    def real_set(
        self,
        captions: Int[Tensor, "N"],
        rates: tuple[float, float],
        *,
        seed: int = 0,
        similarity: str = "identity",
        loss: str = "infonce",
        with_pixels: bool = False,
    ) -> SyntheticSet:
        """Real pairs as a set to start from, or to train students on.

        Args:
            captions: the training captions; each brings its image.
            rates: learning rates of image and text side.
            seed: of the similarity's factors.
            similarity: kind of the similarity matrix, which starts as the identity.
            loss: what students train on.
            with_pixels: bring the images themselves, where students do not need them anyway.
        """

    def start(self) -> SyntheticSet:
        """The real pairs that a distillation starts from; with their pixels where those are learned."""
        distill = self.config.distill
        captions = self.select(distill.start, distill.pairs, distill.seed)
        return self.real_set(
            captions,
            self.start_rates,
            seed=distill.seed,
            similarity=distill.similarity,
            loss=distill.loss,
            with_pixels=distill.images == "pixels",
        )

    @property
    @abstractmethod
    def start_rates(self) -> tuple[float, float]:
        """The students' learning rates at the start of a distillation: of the image side and of the text side."""

    @abstractmethod
    def real_rates_at(self, multiple: float) -> tuple[float, float]:
        """Learning rates of image and text side for students of real pairs; the multiple is chosen on val."""

    @abstractmethod
    def begin(self, settings: DistillConfig, start: SyntheticSet) -> Distillation:
        """A distillation at its start set; `settings` are those of one of its phases."""

    @abstractmethod
    def train_students(
        self,
        pairs: SyntheticSet,
        seeds: Sequence[int],
        on_epoch: Callable[[int, Callable[[], Networks]], None] = lambda epoch, students: None,
    ) -> Iterator[Networks]:
        """Train one fresh student a seed by the configured recipe; yields them side by side or one after the other.

        `on_epoch` is told each epoch's number, from 0, and a function that gives the students after it.

        Raises:
            NonFiniteError: a student diverged.
        """

    def train_at_multiples(self, pairs: SyntheticSet, multiples: Sequence[float]) -> Iterator[Networks | None]:
        """Train a student of seed 0 at each multiple of the set's learning rates; None for one that diverged."""
        for multiple in multiples:
            try:
                yield from self.train_students(pairs.at_multiple(multiple), [0])
            except NonFiniteError:
                yield None

    @abstractmethod
    def hits(self, networks: Networks, split: HeldOutSplit) -> list[Int[Tensor, "I 7"]]:
        """What a split's images and captions find of each other, see `retrieval_hits`; a tensor a student or expert."""

    def val_scores(self, networks: Networks) -> ScoresOnVal:
        """Retrieval scores on val, the only ones that choices are made by; also of an expert's snapshot."""
        return ScoresOnVal(tuple(map(scores_of_hits, self.hits(networks, "val"))))

    def test_scores(self, networks: Networks) -> ScoresOnTest:
        """Retrieval scores on test, which nothing is chosen by; also of an expert's snapshot."""
        return ScoresOnTest(tuple(map(scores_of_hits, self.hits(networks, "test"))))

    def score(self, networks: Networks, split: HeldOutSplit) -> ScoresOnVal | ScoresOnTest:
        """Retrieval scores on val or test, as `split` says; also of an expert's snapshot."""
        return self.val_scores(networks) if split == "val" else self.test_scores(networks)

    @abstractmethod
    def ridge_scores(self, pairs: SyntheticSet) -> ScoresOnVal | None:
        """Val scores of a set's closed-form student; None where there is none (`closed_form`)."""

    @abstractmethod
    def embed(self, networks: Networks, pairs: SyntheticSet) -> tuple[Float[Tensor, "N D"], Float[Tensor, "N D"]]:
        """A set's images and texts in the shared space of one student or expert, on the unit sphere."""

    @abstractmethod
    def gallery(self, images: Sequence[ImageSource], name: str) -> Any:
        """What students need of images that they are to embed; what can be computed once is kept in the store.

        Args:
            images: any images, of this data set or of others.
            name: what tells these images from any others.
        """

    @abstractmethod
    def embed_images(self, networks: Networks, gallery: Any) -> Float[Tensor, "S n D"]:
        """A gallery's images in the shared space of each student, on the unit sphere."""

    @abstractmethod
    def embed_texts(self, networks: Networks, features: Float[Tensor, "m e"]) -> Float[Tensor, "S m D"]:
        """Features of the text encoder in the shared space of each student, on the unit sphere."""

    def encode_pixels(self, pixels: UInt8[Tensor, "N 3 H W"] | Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N d"]:
        """Features of the frozen or pretrained image encoder for pixels of 0 to 255, resized to its input."""
        encoder, parts = self.image_encoder, []
        for part in pixels.split(self.images_at_once):
            with torch.no_grad():
                parts.append(encoder.fast(resized(part.to(self.device).float() / 255, encoder.size)).float().cpu())
        return torch.cat(parts)

    def fitted_pixels(self, pixels: UInt8[Tensor, "N 3 H W"]) -> UInt8[Tensor, "N 3 S S"]:
        """Images of another encoder's size, in this one's."""
        size = self.image_encoder.size
        if pixels.shape[-2:] == (size, size):
            return pixels
        return torch.cat(
            [(resized(part.float() / 255, size) * 255).round().to(torch.uint8) for part in pixels.split(8)]
        )

    def collapse(self, pairs: SyntheticSet) -> dict[str, float]:
        """Collapse measures of a set, in the space of the first expert's last snapshot, the same at every step.

        Where no experts are read, that is the space of its heads before their training. Similarities in the encoders'
        own spaces stand beside them.
        """
        epoch = self.config.distill.expert_epochs[-1]
        key = ("expert", self.experts_record.fingerprint, self.config.experts.seed, epoch)

        def first() -> Networks:
            experts = self.open_experts()
            self.have_expert(experts, 0)
            return experts.snapshot(0, epoch)

        own = encoder_similarities(pairs.image_features, pairs.text_features)
        return collapse_measures(*self.embed(self.opened.once(key, first), pairs)) | own

    @abstractmethod
    def student_tensors(self, networks: Networks) -> dict[str, Tensor]:
        """The first student's weights by name: `image.` and `text.` heads, and `image_encoder.` where it is trained."""

    @abstractmethod
    def student_modules(self, networks: Networks) -> tuple[nn.Module, nn.Module]:
        """The first student as modules on the CPU: pixels in 0 to 1 to embeddings, and text features to embeddings."""

    @property
    @abstractmethod
    def student_content(self) -> Mapping[str, Any]:
        """What decides a student beside its training set and the recipe of `students`."""

    @abstractmethod
    def real_size(self, pairs: int) -> tuple[int, int]:
        """Numbers and bytes that so many real pairs are for a student; 0 are all of them, an image counted once."""

    @property
    @abstractmethod
    def parameters(self) -> int:
        """Numbers that an expert trains."""

    @property
    @abstractmethod
    def prepared_bytes(self) -> int:
        """Size of what `prepare` makes, in the store."""

    @property
    @abstractmethod
    def memory_bytes(self) -> int:
        """Peak memory of a run without a sweep, an upper estimate; runs one image through the encoder."""

    memory_help: ClassVar[str]
    """What to lower where memory is too small."""

    def pixels_of(self, images: Sequence[ImageSource]) -> UInt8[Tensor, "N 3 S S"]:
        """Images as the encoder takes them, plainly resized."""
        return open_pixels(images, self.image_encoder.size)

    def start_pixels(self, pairs: SyntheticSet) -> UInt8[Tensor, "N 3 S S"]:
        """The real images that a set's pairs started from."""
        images = self.data.train.images
        return self.pixels_of([images[index] for index in pairs.start_images.tolist()])

    def began_as(self, pairs: SyntheticSet) -> SyntheticSet:
        """A set as the real pairs that it started from, each image and caption encoded once more."""
        pixels = self.start_pixels(pairs)
        captions = self.data.train.captions
        started: list[str] = [captions[int(index)] for index in pairs.start_captions]
        with torch.no_grad():
            texts = self.text_encoder.encode(started).float().cpu()
        return replace(pairs, image_features=self.encode_pixels(pixels), text_features=texts, pixels=pixels)

    @property
    def images_at_once(self) -> int:
        """Images whose graph fits in memory."""
        return images_at_once(self.config.place, self.device)
