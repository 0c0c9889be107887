"""Protocol B, as published for RepBlend: experts and students train both projection heads on frozen encoders."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from raydd.config import DistillConfig
from raydd.cost.bytes import SINGLE, feature_bytes, graph_bytes, memory_bytes, parameters_of
from raydd.data import (
    FeatureRecords,
    Features,
    HeldOut,
    ImageSource,
    ViewsOf,
    encode_images,
    feature_records,
    load_image_encoder,
    open_features,
    open_held_out,
)
from raydd.data.augment import transform_of
from raydd.data.encoders import image_identity
from raydd.data.encoding import batches_of, encode_views, workers_for
from raydd.data.feature_shards import views_in
from raydd.data.features import SplitFeatures
from raydd.distill import experts as trajectories
from raydd.distill.engine import Distillation
from raydd.distill.experts import Experts, Heads
from raydd.distill.heads import Head, embed, on, split_heads, uncentred
from raydd.distill.image_variables import ImageVariable, LearnedFeatures, LearnedPixels, Spread, kept_bytes
from raydd.distill.objectives import RealPairs
from raydd.distill.selections import SELECTIONS
from raydd.distill.synthetic import SyntheticSet, start_of
from raydd.distill.trajectories import Trajectories, content_of
from raydd.evaluate.retrieval import ScoresOnVal
from raydd.evaluate.ridge import ridge_scores
from raydd.evaluate.students import hits_of_heads, train_at_multiples, train_students
from raydd.protocols import selecting
from raydd.protocols.base import HeldOutSplit, Workbench
from raydd.protocols.student_modules import HeadModule, head_tensors
from raydd.store import Record

_GALLERY_VERSION = 1
_REAL_RATE = 0.4  # learning rate of students of real pairs; a multiple of it is chosen on val


class HeadsWorkbench(Workbench[Heads]):
    """The workbench of protocol B. Both encoders are frozen, so features are computed once and training reads them."""

    trains = "both encoders frozen, both heads trained"
    selections: ClassVar[Collection[str]] = tuple(SELECTIONS)
    image_settings: ClassVar[Mapping[str, Collection[str]]] = {
        "features": ("range_pull",),
        "features-then-pixels": ("image_size",),  # its record names the record of the features
        "pixels": ("steps_per_encoding", "image_size", "least_crop"),
    }
    batches_students: ClassVar[bool] = True
    closed_form: ClassVar[bool] = True
    cached: ClassVar[Collection[str]] = ("images", "texts")
    trial_settings: ClassVar[Mapping[str, Any]] = {"distill.images": "features"}  # a hundredth of the time of pixels

    @property
    def features(self) -> Features:
        """The feature cache; encodes what is missing from the store."""

        def make() -> Features:
            records = encode_images(self.config, self.data, self.store, self.progress)
            return open_features(records, self.held_out, self.captions)

        return self.opened.once(("features", self.data.fingerprint, self.config.encoders, self.config.features), make)

    @property
    def image_centre(self) -> Float[Tensor, "d"] | None:
        """What heads subtract from image features: under `features.centre` their mean over train; None: nothing."""
        return self.features.image_mean if self.config.features.centre else None

    @property
    def trained_on(self) -> Features:
        """The features that heads are trained on: under `features.centre`, those of train minus their mean."""
        return self.features.centred() if self.config.features.centre else self.features

    @property
    def held_out(self) -> HeldOut:
        """The features of val and test only, which are all that scoring reads."""

        def make() -> HeldOut:
            records = encode_images(self.config, self.data, self.store, self.progress, held_out_only=True)
            return open_held_out(records, self.captions)

        return self.opened.once(("held out", self.data.fingerprint, self.config.encoders), make)

    @property
    def source(self) -> str:
        """Name of the feature cache, which may not exist yet."""
        return self._feature_records.fingerprint

    @property
    def is_prepared(self) -> bool:
        """Whether the feature cache is complete."""
        return self._feature_records.complete

    @property
    def _feature_records(self) -> FeatureRecords:
        return feature_records(self.config, self.data.fingerprint, self.store)

    def prepare(self) -> None:
        """Encode the features that are missing from the store."""
        _ = self.features

    def prepared_in_words(self) -> str:
        """Return the number and width of the features, in a sentence."""
        images, views, width = self.features.train.images.shape
        return (
            f"features {self.source}: {images} training images x {views} views, {width} wide; "
            f"{len(self.features.train.texts)} captions, {self.features.text_width} wide. Kept in {self.store.root}."
        )

    @property
    def width(self) -> int:
        """Width D of the shared space."""
        return self.config.experts.width or self.features.image_width

    @property
    def reads(self) -> str:
        """The number of training images and views, in words."""
        return f"{len(self.data.train)} training images, {self.config.features.views} views"

    @property
    def feature_widths(self) -> tuple[int, int] | None:
        """Widths of the features of both encoders."""
        return self.features.image_width, self.features.text_width

    @property
    def experts_record(self) -> Record:
        """The record of the trajectories of this recipe on these features."""
        settings = {**content_of(self.config.experts), "width": self.width, **self._centre_content}
        upstream = {"features": self.source}
        return Record.of(self.store, "experts", settings, upstream, version=trajectories.VERSION)

    def open_experts(self, count: int = 0) -> Experts:
        """Return the trajectories of this recipe on these features."""
        recipe, features = self.config.experts, self.features
        widths = features.image_width, features.text_width, self.width
        return Experts(self.experts_record, *widths, recipe.seed, count or recipe.count)

    def experts_in(self, record: Record, pairs: SyntheticSet) -> Experts:
        """Return the trajectories of a record that a set names."""
        recipe, widths = self.config.experts, (pairs.image_features.shape[1], pairs.text_features.shape[1])
        return Experts(record, *widths, recipe.width or widths[0], recipe.seed, recipe.count)

    @property
    def experts_at_once(self) -> int:
        """How many experts train side by side: several on a GPU."""
        return trajectories.MOST_AT_ONCE if self.device.startswith("cuda") else 1

    def train_experts(self, experts: Trajectories[Heads], numbers: Sequence[int], epochs: Collection[int]) -> None:
        """Train the given experts up to the snapshots of the given epochs; on a GPU, several side by side."""
        assert isinstance(experts, Experts)
        last_epoch, epochs_done = max(epochs), dict[int, int]()
        experts_before = max(numbers) + 1 - len(numbers)  # complete experts before the last one in `numbers`

        def on_epoch(expert: int, epoch: int, _: float) -> None:
            epochs_done[expert] = epoch
            self.progress(
                "epochs of experts", experts_before * last_epoch + sum(epochs_done.values()), experts.count * last_epoch
            )

        trajectories.train_experts(
            experts, numbers, self.trained_on.train, self.config.experts, epochs, device=self.device, on_epoch=on_epoch
        )

    def warmed_up(self, expert: int, epoch: int) -> Heads:
        """Return both heads of one expert after an epoch; trains the expert if the snapshot is missing."""
        experts = self.open_experts(expert + 1)
        if not experts.has(expert, epoch):
            self.train_experts(experts, [expert], [epoch])
        return experts.snapshot(expert, epoch)

    def finished(self, snapshot: Heads) -> Heads:
        """Return an expert's heads for features as the encoder gives them, which are not centred."""
        image, text = snapshot
        return uncentred(image, self.image_centre), text

    def select(self, selection: str, pairs: int, seed: int) -> Int[Tensor, "N"]:
        """Return the captions that a selection chooses, stored as a record with the time and memory of the choice."""
        return selecting.select(self, selection, pairs, seed)

    def selection_cost(self, selection: str, pairs: int, seed: int) -> Mapping[str, Any]:
        """Return the time and peak memory of a completed choice."""
        return selecting.selection_record(self, selection, pairs, seed).facts()

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
        """Return real pairs with the features of their pixels or, without pixels, of each image's first view."""
        train, distill = self.features.train, self.config.distill
        images = train.image_of_text[captions]
        sources = [self.data.train.images[index] for index in images.tolist()] if with_pixels else []
        pixels = self.pixels_of(sources, distill.image_size) if with_pixels else None
        return start_of(
            train.images.gather(images, 0) if pixels is None else self.encode_pixels(pixels),
            train,
            captions,
            seed=seed,
            rates=rates,
            similarity=similarity,
            rank=distill.similarity_rank,
            alpha=distill.alpha,
            loss=loss,
            pixels=pixels,
            image_centre=self.image_centre,
        )

    @property
    def start_rates(self) -> tuple[float, float]:
        """Start learning rate of the image head and of the text head, which are equal."""
        return self.config.distill.start_rate, self.config.distill.start_rate

    def real_rates_at(self, multiple: float) -> tuple[float, float]:
        """Learning rates of image head and text head for students of real pairs, which are equal."""
        return multiple * _REAL_RATE, multiple * _REAL_RATE

    def begin(self, settings: DistillConfig, start: SyntheticSet) -> Distillation:
        """Return a distillation of features, or of pixels through the frozen encoder."""
        features = self.trained_on
        spread = Spread(features.image_spread, features.image_range)
        image: ImageVariable = LearnedFeatures(spread)
        if settings.images == "pixels":
            image = LearnedPixels(self.encode_learned, self.image_encoder.pixel_std, self.images_at_once, spread)
        return Distillation(
            start,
            self.experts(),
            settings,
            image,
            text_spread=features.text_spread,
            temperature=settings.temperature or self.config.experts.temperature,
            real=RealPairs(features.train, features.image_spread, features.text_spread),
            device=self.device,
        )

    def train_students(
        self,
        pairs: SyntheticSet,
        seeds: Sequence[int],
        on_epoch: Callable[[int, Callable[[], Heads]], None] = lambda epoch, students: None,
    ) -> Iterator[Heads]:
        """Train all students as one batched computation; yields both heads with a leading axis of students."""
        yield train_students(
            pairs,
            self.config.students,
            seeds=seeds,
            on_epoch=on_epoch,
            **self._student_arguments(pairs),
        )

    def train_at_multiples(self, pairs: SyntheticSet, multiples: Sequence[float]) -> Iterator[Heads | None]:
        """Train the students of all multiples as one batched computation."""
        recipe = self.config.students
        yield from train_at_multiples(pairs, recipe, multiples, seed=0, **self._student_arguments(pairs))

    def _student_arguments(self, pairs: SyntheticSet) -> dict[str, Any]:
        """Return the other arguments of training students on a set: head width, temperature, device."""
        experts = self.config.experts
        width = experts.width or pairs.image_features.shape[1]
        return {"width": width, "temperature": experts.temperature, "device": self.device}

    def hits(self, networks: Heads, split: HeldOutSplit) -> list[Int[Tensor, "I 7"]]:
        """Return what one pair of heads, or each of several side by side, finds on cached features."""
        return hits_of_heads(*networks, self._scored(split), device=self.device)

    def ridge_scores(self, pairs: SyntheticSet) -> ScoresOnVal:
        """Return val scores of the closed-form student on cached features."""
        features = self.features
        scores = ridge_scores(
            pairs, self._scored("val"), features.image_spread, features.text_spread, device=self.device
        )
        return ScoresOnVal((scores,))

    def _scored(self, split: HeldOutSplit) -> SplitFeatures:
        """Return the features of val or test; on a GPU they are copied there once, and not for each score."""
        features = {"val": self.held_out.val, "test": self.held_out.test}[split]
        if self.device == "cpu":
            return features
        key = "scored", split, self.data.fingerprint, self.config.encoders, self.device
        return self.opened.once(key, lambda: features.on(self.device))

    def on_device(self, networks: Heads) -> Heads:
        """Return both heads on the workbench's device."""
        image, text = networks
        return on(image, self.device), on(text, self.device)

    def embed(self, snapshot: Heads, pairs: SyntheticSet) -> tuple[Float[Tensor, "N D"], Float[Tensor, "N D"]]:
        """Embed the set's features with both heads of an expert's snapshot, for which images are centred."""
        image, text = self.on_device(snapshot)
        image_features, text_features = pairs.image_features.to(self.device), pairs.text_features.to(self.device)
        with torch.no_grad():
            images = embed(uncentred(image, pairs.image_centre), image_features)
            return images.cpu(), embed(text, text_features).cpu()

    memory_help: ClassVar[str] = "place.encode_batch, or set distill.images to features"

    @property
    def parameters(self) -> int:
        """Number of parameters of both heads."""
        return parameters_of(self.config, self.image_encoder.width, self.text_encoder.width)

    @property
    def prepared_bytes(self) -> int:
        """Bytes of all features in half precision."""
        data, views = self.data, views_in("train", self.config.features)
        held_out, captions = len(data.val) + len(data.test), sum(len(split.captions) for split in data.splits)
        sizes = self.image_encoder.width, captions, self.text_encoder.width
        return feature_bytes(len(data.train), held_out, views, *sizes)

    @property
    def memory_bytes(self) -> int:
        """Peak memory in bytes of encoding, or of training heads."""
        encoder, on_gpu = self.image_encoder, self.device.startswith("cuda")
        return memory_bytes(
            self.config,
            encoder.width,
            self.text_encoder.width,
            size=encoder.size,
            graph=graph_bytes(encoder.module, encoder.size, self.device),
            images=self.images_at_once * (1 if on_gpu else torch.get_num_threads()),
            workers=0 if on_gpu else workers_for(self.device),
            most_kept=kept_bytes(self.device),
        )

    def gallery(self, images: Sequence[ImageSource], name: str) -> Float[Tensor, "n d"]:
        """Return the features of the images, read from the store if they were encoded before."""
        settings = {"image": image_identity(self.config.encoders), "images": name}
        record = Record.of(self.store, "galleries", settings, {}, version=_GALLERY_VERSION)
        if not record.complete:
            encoder, features = self.image_encoder, []
            views = ViewsOf(images, transform_of("none", encoder.size), 1, 0)
            batches = batches_of(range(len(views)), self.images_at_once)
            for batch in encode_views(encoder, views, batches, device=self.device, workers=workers_for(self.device)):
                features.append(batch[:, 0])
                self.progress("images encoded", sum(map(len, features)), len(views))
            record.write_tensors("features.safetensors", {"images": torch.cat(features)})
            record.finish(facts={"images": len(views)})
        return record.read_tensors("features.safetensors")["images"].float()

    def embed_images(self, networks: Heads, gallery: Float[Tensor, "n d"]) -> Float[Tensor, "S n D"]:
        """Embed the gallery's features with each image head."""
        return self._embed_rows(networks[0], gallery)

    def embed_texts(self, networks: Heads, features: Float[Tensor, "m e"]) -> Float[Tensor, "S m D"]:
        """Embed text features with each text head."""
        return self._embed_rows(networks[1], features)

    def _embed_rows(self, heads: Head, features: Tensor) -> Tensor:
        rows = features.to(self.device)
        with torch.no_grad():  # one student at a time, to hold only one copy of all rows
            return torch.stack([embed(head, rows).cpu() for head in split_heads(heads)])

    def student_tensors(self, networks: Heads) -> dict[str, Tensor]:
        """Return both heads of the first student."""
        image, text = (split_heads(head)[0] for head in networks)
        return head_tensors("image", image) | head_tensors("text", text)

    def student_modules(self, networks: Heads) -> tuple[nn.Module, nn.Module]:
        """Return the frozen encoder followed by the image head, and the text head."""
        image, text = (HeadModule(split_heads(head)[0]) for head in networks)
        # A new copy: moving the encoder that this run shares would take it off its device.
        return nn.Sequential(load_image_encoder(self.config.encoders, "cpu").module, image), text

    @property
    def student_content(self) -> Mapping[str, Any]:
        """Temperature, width of the heads, centred or not. The encoders are in the record of the training set."""
        experts = self.config.experts
        width = {"width": experts.width} if experts.width else {}
        return {"temperature": experts.temperature, **width, **self._centre_content}

    @property
    def _centre_content(self) -> Mapping[str, Any]:
        """What `features.centre` adds to the settings that decide experts and students; nothing if it is off."""
        return {"centre": True} if self.config.features.centre else {}

    def real_size(self, pairs: int) -> tuple[int, int]:
        """Return the size of the features of `pairs` pairs, in single precision."""
        features = self.features
        images, texts = (pairs, pairs) if pairs else (features.train.images.shape[0], len(features.train.texts))
        numbers = images * features.image_width + texts * features.text_width
        return numbers, SINGLE * numbers
