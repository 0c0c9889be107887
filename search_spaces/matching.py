"""All methods that match trajectories: their switches and numbers in one space, on features.

Origin of the ranges. RepBlend's published settings (SGD on pixels) give the basic ranges: similarity rank 5 to 40,
alpha 0.01 to 3, 8 student steps on 20 pairs, targets one epoch later, weighted BCE, experts' learning rate 0.1. Trials
on Flickr8k widened them. InfoNCE leads after a hundred steps, the weighted BCE of RepBlend after 500 and more. A higher
learning rate of experts and targets some epochs later help; so do wider heads and more steps, which are expensive.
Scored students gain from ten times the published weight decay. Settings that change the experts (their learning rate
and width) take few values, so that trials share experts. More than 1000 steps take too long for a sweep, so the
published settings run for 1000 steps instead of 3000.

`distill.range_pull` is not searched: trials on features would always choose free features, which pixels cannot have.
Set it by the purpose of the set: 0 for a set of features. `features.centre` is not searched either: free features gain
nothing by it, and sets of images need it.
"""

from typing import Any

from optuna.trial import Trial

from raydd.presets import PRESETS
from search_spaces._trajectories import (
    LONGER,
    MINIBATCHES,
    OUR_SIMILARITY,
    OURS,
    PUBLISHED,
    suggest_low_rank,
    suggest_rates,
)

_SIZES: dict[str, Any] = {
    "experts.width": 0,
    "experts.count": 10,
    "distill.steps": 500,
    "distill.start": "random",
    "distill.schedule": "cosine",
}
_PLAIN: dict[str, Any] = {
    **OURS,
    **_SIZES,
    "distill.loss": "infonce",
    "distill.blend": "none",
    "distill.similarity": "identity",
}
_REPBLEND: dict[str, Any] = {
    **OUR_SIMILARITY,
    "distill.blend": "beta",
    "distill.blend_beta": 1.0,
    "distill.similarity": "low-rank",
}

# What a search from a cold start found for 99 pairs of Flickr8k (docs/results/search.md), without what is not searched.
_NOT_SEARCHED = ("features.views", "features.centre", "distill.images", "distill.range_pull")
_FOUND: dict[str, Any] = {
    **_PLAIN,
    **{name: value for name, value in PRESETS["plain-features"].settings.items() if name not in _NOT_SEARCHED},
}

# raydd's defaults, the same with RepBlend's and LoRS's switches, and good settings of searches and of manual trials, so
# that a short search starts from settings that are known to be good. The last has the published settings for Flickr30k
# and 100 pairs, as far as they apply to features.
FIRST: tuple[dict[str, Any], ...] = (
    _PLAIN,
    {**_PLAIN, **_REPBLEND},
    _FOUND,
    {**_PLAIN, **LONGER, "distill.student_steps": 16, "distill.steps": 300},
    {**_PLAIN, **LONGER, **_REPBLEND, "distill.steps": 300},
    {**_PLAIN, **_REPBLEND, "distill.blend": "none"},
    {
        **_PLAIN,
        **PUBLISHED,
        **_REPBLEND,
        "distill.loss": "wbce",
        "distill.steps": 1000,
        "distill.schedule": "constant",
    },
)


def space(trial: Trial) -> dict[str, Any]:
    """Suggest the settings of one trial; settings that only one blend or similarity reads are suggested with it."""
    trial.suggest_categorical("experts.lr", [0.1, 0.2, 0.4])
    trial.suggest_categorical("experts.width", [0, 2304])
    trial.suggest_categorical("experts.count", [5, 10, 20])
    trial.suggest_categorical("distill.start", ["random", "herding", "k-center", "k-means", "co-occurrence"])
    trial.suggest_int("distill.steps", 100, 1000, log=True)
    trial.suggest_categorical("distill.schedule", ["cosine", "constant"])
    trial.suggest_categorical("distill.loss", ["infonce", "wbce"])

    blend = trial.suggest_categorical("distill.blend", ["none", "beta", "fixed"])
    if blend == "beta":
        trial.suggest_float("distill.blend_beta", 0.2, 5.0, log=True)
    elif blend == "fixed":
        trial.suggest_float("distill.blend_ratio", 0.02, 0.5)

    similarity = trial.suggest_categorical("distill.similarity", ["low-rank", "identity"])
    if similarity == "low-rank":
        suggest_low_rank(trial)

    trial.suggest_int("distill.student_steps", 4, 16, log=True)
    trial.suggest_categorical("distill.minibatch", MINIBATCHES)
    trial.suggest_int("distill.target_epochs", 1, 10, log=True)
    trial.suggest_int("distill.max_start_epoch", 1, 3)
    suggest_rates(trial)
    return {}
