"""The workbench of a run: opens everything that the run reads, lazily and once, and trains experts and students.

    work = raydd.open(config)
    work.data, work.captions        # the pairs, and their text features
    work.experts()                  # expert trajectories; trains those missing from the store
    work.start(), work.begin(...)   # the real pairs to start from; a distillation at its start
    work.train_students(set, seeds) # fresh students of a synthetic set or of real pairs
    work.val_scores(students)       # their retrieval scores on val; test_scores are those on test

`raydd.protocols.heads` and `raydd.protocols.encoder` decide what experts and students train. All code above this
package takes a workbench and never asks which one it is.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Generic, Literal, Protocol, Self, TypeVar

import numpy as np
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
from raydd.device import device_of, images_at_once, in_tf32
from raydd.distill.engine import Distillation
from raydd.distill.selections.evidence import require_enough_images
from raydd.distill.synthetic import SyntheticSet
from raydd.distill.trajectories import Trajectories
from raydd.errors import NonFiniteError
from raydd.evaluate.collapse import collapse_measures, encoder_similarities
from raydd.evaluate.retrieval import ScoresOnTest, ScoresOnVal, chance, scores_of_hits
from raydd.progress import Progress
from raydd.protocols.opened import Opened
from raydd.store import Record, Store

Networks = TypeVar("Networks")
"""The networks of a student or an expert: a pair of heads, or an image encoder and a text head."""
Trained = TypeVar("Trained")
HeldOutSplit = Literal["val", "test"]


class Choosing(Protocol[Trained]):
    """The view of a workbench that choices are made with: trains students and scores them on val, never on test."""

    batches_students: ClassVar[bool]
    """As `Workbench.batches_students`."""
    config: Config
    """All settings."""

    @property
    def val_chance(self) -> float:
        """As `Workbench.val_chance`."""
        ...

    def train_students(self, pairs: SyntheticSet, seeds: Sequence[int]) -> Iterator[Trained]:
        """As `Workbench.train_students`."""
        ...

    def train_at_multiples(self, pairs: SyntheticSet, multiples: Sequence[float]) -> Iterator[Trained | None]:
        """As `Workbench.train_at_multiples`."""
        ...

    def val_scores(self, networks: Trained) -> ScoresOnVal:
        """As `Workbench.val_scores`."""
        ...


class Workbench(ABC, Generic[Networks]):
    """One opened run. `Networks` is the type of a student, of several side by side, or of an expert's snapshot."""

    trains: ClassVar[str]
    """What experts and students train, in words."""
    selections: ClassVar[Collection[str]]
    """Selections of real pairs that this workbench can make."""
    image_settings: ClassVar[Mapping[str, Collection[str]]]
    """Settings of `distill` that only some image variables read: for each `distill.images`, the names it reads."""
    batches_students: ClassVar[bool]
    """Whether students train as one batched computation. If not, they train one after the other."""
    closed_form: ClassVar[bool]
    """Whether a set has a closed-form student, which `ridge_scores` scores."""
    cached: ClassVar[Collection[str]]
    """What `prepare` encodes, as kinds of `raydd.data.shards_of`: `images`, `texts`."""
    trial_settings: ClassVar[Mapping[str, Any]]
    """Settings of a sweep's trials: the cheapest form of the distillation that still ranks settings."""

    def __init__(self, config: Config, store: Store, progress: Progress, opened: Opened) -> None:
        """Open nothing yet.

        Args:
            config: all settings.
            store: where records are read and written.
            progress: called with the progress of each piece of work.
            opened: shared with the workbenches of the same run.
        """
        self.config, self.store, self.progress, self.opened = config, store, progress, opened

    def with_progress(self, progress: Progress) -> Self:
        """Return the same workbench with another progress listener."""
        return type(self)(self.config, self.store, progress, self.opened)

    @property
    def device(self) -> str:
        """The device to compute on."""
        return device_of(self.config.place)

    @property
    def data(self) -> DataSet:
        """The pairs of the data set, with every image checked once."""
        return self.opened.once(("data", self.config.data), self._open_data)

    def _open_data(self) -> DataSet:
        settings, listings = self.config.data, self.opened.listings
        if settings in listings:
            return open_data(listings[settings], settings, self.store)
        data = load_data(settings, self.store, self.progress, check=self.opened.check)
        listings[settings] = data.listing
        return data

    @property
    def captions(self) -> CaptionFeatures:
        """Text features of all captions; encodes those missing from the store."""
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
            pairs: number of pairs; 0 is `distill.pairs`.

        Raises:
            ConfigError: there are fewer training images than pairs.
        """
        require_enough_images(pairs or self.config.distill.pairs, len(self.data.train))

    @property
    @abstractmethod
    def source(self) -> str:
        """Name of the features that experts and selections are made from."""

    @property
    @abstractmethod
    def is_prepared(self) -> bool:
        """Whether the store holds all data that experts and distillations read."""

    @abstractmethod
    def prepare(self) -> None:
        """Encode the data that experts and distillations read, as far as it is missing from the store."""

    @abstractmethod
    def prepared_in_words(self) -> str:
        """Return a sentence that says what `prepare` made."""

    @property
    @abstractmethod
    def width(self) -> int:
        """Width D of the shared space."""

    @property
    @abstractmethod
    def reads(self) -> str:
        """The data that experts read, in words."""

    @property
    @abstractmethod
    def feature_widths(self) -> tuple[int, int] | None:
        """Widths of the cached image and text features, for time estimates; None without a cache."""

    @property
    @abstractmethod
    def experts_record(self) -> Record:
        """The record of the trajectories of these settings, complete or not; trains nothing."""

    def selection_content(self, selection: str) -> tuple[dict[str, Any], dict[str, str]]:
        """Return what decides a choice of real pairs, besides its seed and the number of pairs; it names the record.

        Returns:
            The settings, and the records that the choice is made from.
        """
        if selection == "random":  # draws pairs, and trains nothing
            return {}, {"features": self.source}
        experts = self.experts_record.fingerprint  # the other selections read heads warmed up by the experts' recipe
        return {"first_expert": self.config.experts.seed}, {"features": self.source, "experts": experts}

    @abstractmethod
    def open_experts(self, count: int = 0) -> Trajectories[Networks]:
        """Return the trajectories of these settings, complete or not; `count` overrides `experts.count`."""

    @abstractmethod
    def experts_in(self, record: Record, pairs: SyntheticSet) -> Trajectories[Networks]:
        """Return the trajectories of a record that a set names, regardless of the settings here; reads no features."""

    @abstractmethod
    def train_experts(self, experts: Trajectories[Networks], numbers: Sequence[int], epochs: Collection[int]) -> None:
        """Train the given experts so that their trajectories have the snapshots of the given epochs."""

    @property
    def experts_at_once(self) -> int:
        """How many experts `train_experts` trains side by side."""
        return 1

    def experts(self, count: int = 0, epochs: Collection[int] = ()) -> Trajectories[Networks]:
        """Return the experts that a distillation reads.

        Experts missing from the store are trained here, or later by `ensure_expert`.

        Args:
            count: number of experts; 0 is `experts.count`.
            epochs: epochs whose snapshots are required; those that the distillation reads if empty.
        """
        experts, epochs = self.open_experts(count), epochs or self.config.distill.expert_epochs
        if not self.opened.fetch and (missing := experts.missing(epochs)):
            self.train_experts(experts, missing, epochs)
        return experts

    def ensure_expert(self, experts: Trajectories[Networks], expert: int) -> None:
        """Make sure that the snapshots of one expert are in the store, if `experts` left that for later."""
        if self.opened.fetch:
            with counted_as("experts"):
                self.opened.fetch(self, experts, expert)

    @property
    def missing_experts(self) -> list[int]:
        """Experts with a snapshot that this distillation reads and that is missing from the store."""
        return self.open_experts().missing(self.config.distill.expert_epochs)

    @abstractmethod
    def select(self, selection: str, pairs: int, seed: int) -> Int[Tensor, "N"]:
        """Return the captions that a selection chooses, each of a different training image; kept in the store.

        Raises:
            ConfigError: there are fewer training images than `pairs`.
        """

    @abstractmethod
    def selection_cost(self, selection: str, pairs: int, seed: int) -> Mapping[str, Any]:
        """Return `seconds`, `cpu_seconds` and `peak_bytes` of a completed choice; empty if a choice costs nothing."""

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
        """Return real pairs as a set, to start from or to train students on.

        Args:
            captions: the training captions; each brings its image.
            rates: learning rates of image and text side.
            seed: seed of the similarity's factors.
            similarity: kind of the similarity matrix, which starts as the identity.
            loss: the students' loss.
            with_pixels: include the images even if students do not need them.
        """

    def start(self) -> SyntheticSet:
        """Return the real pairs that a distillation starts from, with their pixels if pixels are learned."""
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

    def prepare_start(self) -> None:
        """Make what `start` and `begin` read and the store lacks: encoded data, the choice of pairs, and experts."""
        distill = self.config.distill
        self.prepare()
        self.select(distill.start, distill.pairs, distill.seed)
        self.experts()

    @property
    @abstractmethod
    def start_rates(self) -> tuple[float, float]:
        """The students' learning rates at the start of a distillation: of the image side and of the text side."""

    @abstractmethod
    def real_rates_at(self, multiple: float) -> tuple[float, float]:
        """Learning rates of image and text side for students of real pairs; `multiple` is chosen on val."""

    @abstractmethod
    def begin(self, settings: DistillConfig, start: SyntheticSet) -> Distillation:
        """Return a distillation at its start set; `settings` are those of one of its phases."""

    @abstractmethod
    def train_students(
        self,
        pairs: SyntheticSet,
        seeds: Sequence[int],
        on_epoch: Callable[[int, Callable[[], Networks]], None] = lambda epoch, students: None,
    ) -> Iterator[Networks]:
        """Train one fresh student per seed by the configured recipe; yield all side by side, or one after the other.

        `on_epoch` is called after each epoch with its number, from 0, and a function that returns the students.

        Raises:
            NonFiniteError: a student diverged.
        """

    def train_at_multiples(self, pairs: SyntheticSet, multiples: Sequence[float]) -> Iterator[Networks | None]:
        """Train a student of seed 0 at each multiple of the set's learning rates; yields None if it diverged."""
        for multiple in multiples:
            try:
                yield from self.train_students(pairs.at_multiple(multiple), [0])
            except NonFiniteError:
                yield None

    @abstractmethod
    def hits(self, networks: Networks, split: HeldOutSplit) -> list[Int[Tensor, "I 7"]]:
        """Return what images and captions of a split find, see `retrieval_hits`; one tensor per student.

        An expert's snapshot must be `finished` first; the same holds for `val_scores`, `test_scores` and `score`.
        """

    def val_scores(self, networks: Networks) -> ScoresOnVal:
        """Return retrieval scores on val, the only scores that choices are made by."""
        return ScoresOnVal(tuple(map(scores_of_hits, self.hits(networks, "val"))))

    @property
    def val_chance(self) -> float:
        """The r_mean in percent that random rankings have on val."""
        return chance(np.bincount(self.data.val.image_of_caption).tolist())

    def test_scores(self, networks: Networks) -> ScoresOnTest:
        """Return retrieval scores on test, which nothing is chosen by."""
        return ScoresOnTest(tuple(map(scores_of_hits, self.hits(networks, "test"))))

    def score(self, networks: Networks, split: HeldOutSplit) -> ScoresOnVal | ScoresOnTest:
        """Return retrieval scores on the given split."""
        return self.val_scores(networks) if split == "val" else self.test_scores(networks)

    @abstractmethod
    def ridge_scores(self, pairs: SyntheticSet) -> ScoresOnVal | None:
        """Return val scores of a set's closed-form student; None if the protocol has none (`closed_form`)."""

    @abstractmethod
    def on_device(self, networks: Networks) -> Networks:
        """Return networks on the workbench's device; those that are there are not copied."""

    @abstractmethod
    def embed(self, snapshot: Networks, pairs: SyntheticSet) -> tuple[Float[Tensor, "N D"], Float[Tensor, "N D"]]:
        """Embed a set's images and texts in the shared space of an expert's snapshot, on the unit sphere.

        The snapshot must not be `finished`: image features are taken minus the set's own centre, so that the features
        of train are not read. The result is on the CPU.
        """

    @abstractmethod
    def gallery(self, images: Sequence[ImageSource], name: str) -> Any:
        """Prepare images for `embed_images`. Whatever all students share is computed once and kept in the store.

        Args:
            images: any images, of this data set or of others.
            name: identifies these images.
        """

    @abstractmethod
    def embed_images(self, networks: Networks, gallery: Any) -> Float[Tensor, "S n D"]:
        """Embed a gallery's images in the shared space of each student, on the unit sphere."""

    @abstractmethod
    def embed_texts(self, networks: Networks, features: Float[Tensor, "m e"]) -> Float[Tensor, "S m D"]:
        """Embed features of the text encoder in the shared space of each student, on the unit sphere."""

    def encode_pixels(self, pixels: UInt8[Tensor, "N 3 H W"] | Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N d"]:
        """Encode pixels of 0 to 255, resized to the input size, with the frozen or pretrained image encoder."""
        features: list[Tensor] = []
        for batch in pixels.split(self.images_at_once):
            with torch.no_grad():
                features.append(self.encode_learned(batch.to(self.device).float() / 255).float().cpu())
        return torch.cat(features)

    def resized_pixels(self, pixels: UInt8[Tensor, "N 3 H W"]) -> UInt8[Tensor, "N 3 S S"]:
        """Resize images of another encoder's input size to the size of this encoder."""
        size = self.image_encoder.size
        if pixels.shape[-2:] == (size, size):
            return pixels
        return torch.cat(
            [(resized(batch.float() / 255, size) * 255).round().to(torch.uint8) for batch in pixels.split(8)]
        )

    def collapse(self, pairs: SyntheticSet) -> dict[str, float]:
        """Return the collapse measures of a set, and the similarities in the encoders' own spaces.

        Collapse is measured in the space of the first expert's last snapshot, which is the same at every step. If the
        distillation reads no experts, it is measured with that expert's heads before their training.
        """
        experts, epoch = self.open_experts(), self.config.distill.expert_epochs[-1]
        self.ensure_expert(experts, 0)
        version = self.store.root, experts.record.folder, experts.name(0, epoch), self.device
        networks = self.opened.latest("collapse", version, lambda: self.on_device(experts.snapshot(0, epoch)))
        similarities = encoder_similarities(pairs.image_features, pairs.text_features)
        return collapse_measures(*self.embed(networks, pairs)) | similarities

    def finished(self, snapshot: Networks) -> Networks:
        """Return an expert's snapshot as networks that `hits` and the scores take, as they take students."""
        return snapshot

    @abstractmethod
    def student_tensors(self, networks: Networks) -> dict[str, Tensor]:
        """Return the first student's weights by name: heads `image.` and `text.`, and `image_encoder.` if trained."""

    @abstractmethod
    def student_modules(self, networks: Networks) -> tuple[nn.Module, nn.Module]:
        """Return the first student as two CPU modules: from pixels in 0 to 1, and from text features, to embeddings."""

    @property
    @abstractmethod
    def student_content(self) -> Mapping[str, Any]:
        """What decides a student, in addition to its training set and the recipe in `students`."""

    @abstractmethod
    def real_size(self, pairs: int) -> tuple[int, int]:
        """Return how many numbers and bytes `pairs` real pairs take; 0 is all pairs, each image counted once."""

    @property
    @abstractmethod
    def parameters(self) -> int:
        """Number of parameters that an expert trains."""

    @property
    @abstractmethod
    def prepared_bytes(self) -> int:
        """Bytes in the store of what `prepare` makes."""

    @property
    @abstractmethod
    def memory_bytes(self) -> int:
        """Peak memory in bytes of a run without a sweep, an upper estimate; runs one image through the encoder."""

    memory_help: ClassVar[str]
    """The setting to lower if memory is too small."""

    def pixels_of(self, images: Sequence[ImageSource], size: int = 0) -> UInt8[Tensor, "N 3 S S"]:
        """Open images and resize them to a side of `size` pixels (0: the encoder's input), without augmentation."""
        return open_pixels(images, size or self.image_encoder.size)

    def start_pixels(self, pairs: SyntheticSet, size: int = 0) -> UInt8[Tensor, "N 3 S S"]:
        """Return the real images that a set's pairs started from; `size` as in `pixels_of`."""
        images = self.data.train.images
        return self.pixels_of([images[index] for index in pairs.start_images.tolist()], size)

    @in_tf32()
    def encode_learned(self, pixels: Float[Tensor, "B 3 S S"]) -> Float[Tensor, "B d"]:
        """Return the frozen encoder's features of learned images in 0 to 1, which it sees in its own size."""
        return self.image_encoder.fast(resized(pixels, self.image_encoder.size))

    def with_start_pairs(self, pairs: SyntheticSet) -> SyntheticSet:
        """Return a set with the real pairs that it started from, each image and caption encoded again."""
        pixels = self.start_pixels(pairs)
        captions = self.data.train.captions
        start_captions: list[str] = [captions[int(index)] for index in pairs.start_captions]
        with torch.no_grad():
            texts = self.text_encoder.encode(start_captions).float().cpu()
        return replace(pairs, image_features=self.encode_pixels(pixels), text_features=texts, pixels=pixels)

    @property
    def images_at_once(self) -> int:
        """Number of images whose autograd graph fits in memory."""
        return images_at_once(self.config.place, self.device)
