"""Retrieval scores of embeddings, TR@K (image to text), IR@K (text to image) and r_mean, for one or several seeds."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, overload

import torch
from jaxtyping import Float, Int
from torch import Tensor

from raydd.distill.products import linear
from raydd.errors import NonFiniteError


def mean_and_std(values: Sequence[float]) -> tuple[float, float]:
    """Return the mean and the standard deviation (n - 1) of at least one value; the latter is 0 for one value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def summary(seeds: Iterable[Mapping[str, float]], metric: str) -> dict[str, Any]:
    """Return one metric of several seeds as `{"mean": …, "std": …, "seeds": […]}`."""
    values = [seed[metric] for seed in seeds]
    mean, std = mean_and_std(values)
    return {"mean": mean, "std": std, "seeds": values}


@dataclass(frozen=True)
class Scores:
    """Retrieval scores in percent, one dictionary per student seed."""

    seeds: tuple[dict[str, float], ...]

    @property
    def mean(self) -> dict[str, float]:
        """Mean over seeds of each metric."""
        return {metric: statistics.fmean(seed[metric] for seed in self.seeds) for metric in METRICS}

    @property
    def std(self) -> dict[str, float]:
        """Standard deviation over seeds (n - 1), 0 for one seed."""
        return {metric: mean_and_std([seed[metric] for seed in self.seeds])[1] for metric in METRICS}

    def as_json(self) -> dict[str, Any]:
        """`{"r_mean": {"mean": …, "std": …, "seeds": […]}, …}`, metric by metric."""
        return {metric: summary(self.seeds, metric) for metric in reversed(METRICS)}


@dataclass(frozen=True)
class ScoresOnVal(Scores):
    """Scores on val, the only scores that choices are made by: other scores have no `for_choice`."""

    split: ClassVar[Literal["val"]] = "val"

    @property
    def for_choice(self) -> float:
        """Mean r_mean in percent. Learning rates, epochs, trials and finalists are chosen by it."""
        return self.mean["r_mean"]


@dataclass(frozen=True)
class ScoresOnTest(Scores):
    """Scores on test. They are reported, and nothing is chosen by them."""

    split: ClassVar[Literal["test"]] = "test"


@overload
def scores_on(split: Literal["val"], seeds: Iterable[dict[str, float]]) -> ScoresOnVal: ...
@overload
def scores_on(split: Literal["test"], seeds: Iterable[dict[str, float]]) -> ScoresOnTest: ...
def scores_on(split: Literal["val", "test"], seeds: Iterable[dict[str, float]]) -> ScoresOnVal | ScoresOnTest:
    """Return the scores of several seeds as the type of their split."""
    return {kind.split: kind for kind in (ScoresOnVal, ScoresOnTest)}[split](tuple(seeds))


def by_published_choice(scores: Scores | dict[str, float]) -> float:
    """Return r_mean on the scored split, by which the published code chooses (`evaluate.choice` best-on-split).

    Every row chosen in this way is marked; everything else is chosen by `ScoresOnVal.for_choice`.
    """
    return (scores.mean if isinstance(scores, Scores) else scores)["r_mean"]


KS = (1, 5, 10)
RECALLS = (*(f"IR@{k}" for k in KS), *(f"TR@{k}" for k in KS))
METRICS = (*RECALLS, "IR_mean", "TR_mean", "r_mean")
SHOWN = (*RECALLS, "r_mean")  # columns of tables that have no room for all metrics, and rows of the leaderboard


def chance(captions: Sequence[int]) -> float:
    """Return the r_mean in percent that random rankings have on average.

    A caption finds its image among the nearest K of I images with probability K/I. An image with c of the C captions
    finds none of them among the nearest K captions with probability C(C-c, K) / C(C, K).

    Args:
        captions: the number of captions of each image.
    """
    images, total = len(captions), sum(captions)
    image_retrieval = [min(1.0, k / images) for k in KS]
    text_retrieval = [
        1
        - statistics.fmean(math.comb(total - own, min(k, total)) for own in captions) / math.comb(total, min(k, total))
        for k in KS
    ]
    return 100 * statistics.fmean([*image_retrieval, *text_retrieval])


HITS = ("captions", *RECALLS)  # columns of `retrieval_hits`


def retrieval_scores(
    image_embeddings: Float[Tensor, "I D"],
    text_embeddings: Float[Tensor, "C D"],
    image_of_text: Int[Tensor, "C"],
) -> dict[str, float]:
    """Compute recalls in percent, as `retrieval_hits` counts them."""
    return scores_of_hits(retrieval_hits(image_embeddings, text_embeddings, image_of_text))


def retrieval_hits(
    image_embeddings: Float[Tensor, "I D"],
    text_embeddings: Float[Tensor, "C D"],
    image_of_text: Int[Tensor, "C"],
    *,
    captions_at_once: int = 1024,
) -> Int[Tensor, "I 7"]:
    """Count what each image and its captions find.

    The similarity matrix is computed for some captions at a time, so memory does not grow with C. The columns are
    `HITS`: the number of an image's captions, how many of these captions have their image among the K nearest images,
    and whether (0 or 1) one of them is among the K captions nearest to the image.

    TR@K is the share of images with at least one of their captions among the K nearest captions; IR@K the share of
    captions whose image is among the K nearest images. A wrong candidate that ties with the right one counts as nearer.
    So if two images have the same caption word for word, the other image's copy counts as a wrong candidate, as in
    published scores. `DataSet.summary` says how many such captions a split has.

    Args:
        image_embeddings: one row per image; every image has a caption.
        text_embeddings: one row per caption.
        image_of_text: the image that each caption belongs to.
        captions_at_once: columns of the similarity matrix that are held at once.

    Raises:
        NonFiniteError: an embedding is NaN or infinite, which a ranking would hide.
    """
    if not (bool(image_embeddings.isfinite().all()) and bool(text_embeddings.isfinite().all())):
        raise NonFiniteError(
            "The student's embeddings are not finite. Lower the learning rates that it was trained with."
        )
    best_own = image_embeddings.new_full((len(image_embeddings),), -torch.inf)
    best_wrong = image_embeddings.new_full((len(image_embeddings), max(KS)), -torch.inf)
    images_before = []
    for captions, owners in zip(
        text_embeddings.split(captions_at_once), image_of_text.split(captions_at_once), strict=True
    ):
        similarity = linear(image_embeddings, captions)
        column = torch.arange(len(owners), device=owners.device)
        own_similarity = similarity[owners, column]
        images_before.append((similarity >= own_similarity).sum(0) - 1)
        best_own.scatter_reduce_(0, owners, own_similarity, "amax")
        similarity[owners, column] = -torch.inf
        nearest = similarity.topk(min(max(KS), len(owners)), dim=1).values
        best_wrong = torch.cat([best_wrong, nearest], dim=1).topk(max(KS), dim=1).values
    captions_before = (best_wrong >= best_own[:, None]).sum(1)  # exact below max(KS), which is enough for recalls
    hits = torch.stack([torch.ones_like(image_of_text), *(torch.cat(images_before) < k for k in KS)], dim=1).long()
    hits_by_image = hits.new_zeros(len(image_embeddings), hits.shape[1]).index_add_(0, image_of_text, hits)
    return torch.cat([hits_by_image, torch.stack([captions_before < k for k in KS], dim=1).long()], dim=1).cpu()


def scores_of_hits(hits: Int[Tensor, "I 7"]) -> dict[str, float]:
    """Compute recalls in percent from what each image and its captions found, see `HITS`."""
    total = dict(zip(HITS, hits.sum(0).tolist(), strict=True))
    image_retrieval = {f"IR@{k}": 100 * (total[f"IR@{k}"] / total["captions"]) for k in KS}
    text_retrieval = {f"TR@{k}": 100 * (total[f"TR@{k}"] / len(hits)) for k in KS}
    ir_mean, tr_mean = sum(image_retrieval.values()) / len(KS), sum(text_retrieval.values()) / len(KS)
    means = {"IR_mean": ir_mean, "TR_mean": tr_mean, "r_mean": (ir_mean + tr_mean) / 2}
    return {**image_retrieval, **text_retrieval, **means}
