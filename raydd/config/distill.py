"""Settings of the distillation, and of the search for pixels that have the distilled features."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from raydd.ranges import MOST, Between, Count, FromZero, Rate, RateFromZero, Seed, check_numbers, require

Selection = Literal["random", "herding", "k-center", "k-means", "co-occurrence", "forgetting"]
"""Names of the selections in `raydd.distill.selections`."""


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
    pairs: Annotated[int, Between(3, 1_000_000)] = 99
    """Number of synthetic pairs N. Published budgets of 100, 200 and 500 pairs are 99, 199 and 499 here, because a
    learned similarity matrix counts as one pair."""
    images: Literal["features-then-pixels", "features", "pixels"] = "features-then-pixels"
    """What is learned for each image: features; features-then-pixels, which first learns features and then searches for
    pixels that the encoder maps to them; or pixels, as published. Texts are always learned as features."""
    start: Selection = "random"
    """How to select the real pairs from which the synthetic pairs start."""
    steps: FromZero = 500
    """Distillation steps (outer iterations)."""
    steps_per_encoding: Count = 4
    """Encode learned pixels once every N distillation steps and accumulate the gradients of these steps (1: encode in
    each step, as published)."""
    image_size: Annotated[int, Between(0, 4_096)] = 0
    """Side of the learned images in pixels (0: that of the encoder's input). The frozen encoder sees them enlarged, so
    half of its side makes a set a quarter as large."""
    least_crop: Annotated[float, Between(0.01, 1)] = 1.0
    """Smallest area of a random crop, as a fraction of the image. Each time learned pixels are encoded, the frozen
    encoder sees a random crop of each image, mirrored half of the time; for pixels that other encoders will use (1: the
    whole image, never mirrored)."""
    student_steps: Annotated[int, Between(1, 100_000)] = 4
    """Steps T that a student takes on synthetic pairs within one distillation step."""
    minibatch: int = 0
    """Minibatch size B of a student step, in synthetic pairs, at most all of them (0: a fifth of the pairs but at least
    20; half of the pairs but at most 100 if a similarity matrix is learned, since RepBlend's students diverged with a
    fifth of 99 pairs, and learned slowly with half of 499)."""
    minibatch_order: Literal["permutations", "random"] = "permutations"
    """How the minibatches of students are drawn. permutations: cut from shuffled pairs, as published; random: drawn
    independently."""
    max_start_epoch: Annotated[int, Between(1, 100_000)] = 1
    """Each distillation step starts its student from an expert's weights at a random epoch, 0 to max_start_epoch - 1
    (1: always epoch 0, the expert's initial weights)."""
    all_experts_at: Annotated[int, Between(0, 100)] = 0
    """Percent of the steps over which the number of experts in use grows from one to all, so that a trial that is
    stopped early needs few experts (0: all from the first step, as published). With 45, sets of Flickr8k lost 0.7
    points of val r_mean."""
    target_epochs: Annotated[int, Between(1, 100_000)] = 3
    """M: a student should reach the expert's weights M epochs after the epoch where it starts."""
    text_target_epochs: Annotated[int, Between(0, 100_000)] = 0
    """M of the text head, if the text head should reach an earlier or later epoch than the image head (0: the same
    M)."""
    blend: Literal["none", "beta", "fixed", "noise"] = "none"
    """Blending: mix each pair's features with those of another pair before the heads. none: off; beta: the ratio is
    drawn from Beta(b, b); fixed: a fixed ratio; noise: Gaussian noise instead of the other pair."""
    blend_sides: Literal["both", "image", "text"] = "both"
    """Which modalities are blended."""
    blend_beta: Annotated[float, Between(1e-6, 1e6)] = 1.0
    """Parameter b of Beta(b, b) (1: uniform). Used if `distill.blend` is beta or noise."""
    blend_ratio: Annotated[float, Between(0, 1)] = 0.2
    """Weight of the other pair, 0 to 1. Used if `distill.blend` is fixed."""
    similarity: Literal["low-rank", "identity", "full"] = "identity"
    """Similarity matrix: targets of the loss for each synthetic image and text (soft labels). low-rank: learned as
    diag(a) + alpha/rank L R^T; identity: fixed, as in CLIP's loss; full: each entry is learned."""
    rank: Count = 10
    """Rank of the factors L and R of a low-rank similarity matrix; more than distill.pairs counts as that many."""
    alpha: Annotated[float, Between(-1e6, 1e6)] = 3.0
    """Scale alpha of the low-rank part of the similarity matrix."""
    loss: str = "infonce"
    """Loss of students, in distillation and when a set is scored: infonce (InfoNCE), wbce (weighted BCE, as published),
    bce, or your own (`FILE.py:NAME` or `module:NAME`). Parameters of your own loss are learned with the synthetic
    set."""
    temperature: Annotated[float, Between(0, 1e4)] = 0.0
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
    covariance_scale: Annotated[float, Between(1e-6, 1e6)] = 1.0
    """Factor rho of objective covariance, whose target is rho times the cross-covariance of real pairs."""
    mean_weight: RateFromZero = 0.1
    """Weight lambda of the distance between the means of real and synthetic features, under objectives covariance and
    projector."""
    ridge_strength: Annotated[float, Between(1e-6, 1e6)] = 3.0
    """Penalty of ridge regression. Objective ridge: the initial penalty, in units of the mean squared norm of synthetic
    features; from it, one for images and one for texts are learned. Objective projector: a fixed penalty, in units of a
    real feature's variance."""
    real_minibatch: Annotated[int, Between(2, MOST)] = 256
    """Number of real pairs per step, under objectives ridge, distribution and gradient."""
    optimizer: Literal["sgd", "adam"] = "adam"
    """Outer optimiser, which updates the synthetic pairs: SGD with momentum (as published) or Adam."""
    momentum: Annotated[float, Between(0, 1, below=True)] = 0.5
    """Momentum of SGD; for Adam, decay rate of the first moment."""
    image_lr: RateFromZero = 0.13
    """Outer learning rate of the images. Features with adam: in standard deviations of each dimension, with one second
    moment for all features. Pixels: in units of normalised pixel values."""
    text_lr: RateFromZero = 0.05
    """Outer learning rate of the text features; with adam in standard deviations of each dimension."""
    similarity_lr: RateFromZero = 0.05
    """Outer learning rate of the similarity matrix: of its factors (low-rank) or its entries (full)."""
    rate_lr: RateFromZero = 0.1
    """Outer learning rate of the students' learned learning rates, and of the parameters of your own loss."""
    range_pull: Annotated[float, Between(0, 1)] = 1.0
    """Fraction by which out-of-range features move back to the per-dimension range of real ones after each step (0:
    free, 1: clamp). Pixels can only have features inside that range."""
    start_rate: Rate = 0.04
    """Initial learning rate of the students. Distillation learns one learning rate for each head; they stay
    positive."""
    encoder_rate: Rate = 0.01
    """Initial learning rate of the students for the image encoder, if they train it (`distill.protocol` encoder)."""
    fit_rates: bool = True
    """After distillation, scale the students' learning rates by the power of two that gives the best val r_mean; off:
    keep the learned learning rates, as published."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """Schedule of the outer learning rates: constant, as published, or cosine decay to zero."""
    checkpoint_every: Count = 50
    """Save a checkpoint every N steps; an interrupted distillation continues from the last one."""
    seed: Seed = 0
    """Seed of the start pairs, minibatches, blending and the choice of experts."""

    def __post_init__(self) -> None:
        check_numbers("distill", self)
        require(
            self.minibatch >= 0 and self.minibatch != 1,
            "distill.minibatch",
            self.minibatch,
            "2 or more, or 0 for a share of the pairs",
        )
        if self.protocol == "encoder":  # no image features are cached, so none to learn, to select by or to blend in
            rule = "under distill.protocol encoder"
            require(self.images == "pixels", "distill.images", self.images, f"pixels {rule}")
            require(self.start == "random", "distill.start", self.start, f"random {rule}")
            require(self.blend != "noise", "distill.blend", self.blend, f"none, beta or fixed {rule}")
            require(self.objective == "trajectory", "distill.objective", self.objective, f"trajectory {rule}")
            require(self.text_target_epochs == 0, "distill.text_target_epochs", self.text_target_epochs, f"0 {rule}")

    @property
    def minibatch_size(self) -> int:
        """Minibatch size B of a student step, with 0 resolved."""
        fifth, half = math.ceil(self.pairs / 5), math.ceil(self.pairs / 2)
        share = max(20, fifth) if self.similarity == "identity" else min(half, 100)
        return min(self.minibatch or share, self.pairs)

    @property
    def similarity_rank(self) -> int:
        """Rank of the similarity matrix: a matrix of N pairs has no higher rank than N."""
        return min(self.rank, self.pairs)

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

    steps: FromZero = 100
    """Number of Adam steps on the pixels."""
    lr: Rate = 0.007
    """Learning rate, for pixel values in the range 0 to 1; it falls to zero over the last two fifths of the steps."""

    def __post_init__(self) -> None:
        check_numbers("pixels", self)
