"""The settings that decide a synthetic set. The name of the set's record depends on these settings alone.

Each switch has an allow-list: settings that are not read (the blend ratio without blending, the rank of an identity)
are not part of the name. A setting with its neutral value is left out. So a setting that a later version adds does not
rename existing records.
"""

from collections.abc import Collection, Mapping
from typing import Any

from raydd.config import DistillConfig
from raydd.outside import source_identity, without_folder

# The values at which settings are left out of the name. They never change, even if the defaults of `raydd.config` do.
# A new setting is added here with the value that means what raydd did before the setting existed.
_NEUTRAL: Mapping[str, Any] = {
    "objective": "trajectory",
    "start": "random",
    "minibatch_order": "permutations",
    "blend": "none",
    "blend_sides": "both",
    "blend_beta": 1.0,
    "similarity": "identity",
    "loss": "infonce",
    "student_temperature": 0.0,
    "matched": "both-heads",
    "merged": False,
    "gradient": "exact",
    "optimizer": "adam",
    "momentum": 0.5,
    "covariance_scale": 1.0,
    "mean_weight": 0.1,
    "ridge_strength": 3.0,
    "real_minibatch": 256,
    "range_pull": 0.0,
    "all_experts_at": 0,
    "text_target_epochs": 0,
    "fit_rates": True,
    "schedule": "cosine",
    "steps_per_encoding": 1,
    "image_size": 0,
    "least_crop": 1.0,
    "seed": 0,
}
# Names that settings had when the first records were named. Names of records keep using them.
# In these names, `temperature` is the temperature of the experts.
_FIRST_NAMES: Mapping[str, str] = {"images": "space", "temperature": "student_temperature"}
_ALWAYS_READ = (
    *("objective", "pairs", "images", "start", "steps", "similarity", "loss", "temperature", "optimizer", "momentum"),
    *("schedule", "fit_rates", "seed", "image_lr", "text_lr", "start_rate"),
)
_READ_BY_OBJECTIVE: Mapping[str, tuple[str, ...]] = {
    "trajectory": (
        *("student_steps", "minibatch", "minibatch_order", "max_start_epoch", "target_epochs"),
        "text_target_epochs",
        *("blend", "matched", "gradient", "rate_lr", "all_experts_at"),
    ),
    "covariance": ("covariance_scale", "mean_weight"),
    "projector": ("ridge_strength", "mean_weight"),
    "ridge": ("ridge_strength", "real_minibatch", "rate_lr"),
    "distribution": ("target_epochs", "real_minibatch"),
    "gradient": ("real_minibatch", "rate_lr"),
}
_LEARNS_SIMILARITY = ("trajectory", "ridge", "gradient")
_READ_BY_BLEND: Mapping[str, tuple[str, ...]] = {
    "none": (),
    "beta": ("blend_sides", "blend_beta"),
    "noise": ("blend_sides", "blend_beta"),
    "fixed": ("blend_sides", "blend_ratio"),
}
_READ_BY_SIMILARITY: Mapping[str, tuple[str, ...]] = {
    "identity": (),
    "full": (),
    "low-rank": ("rank", "alpha"),
}


def named_loss(loss: str) -> dict[str, str]:
    """Return what identifies a loss: its name, and the hash of its file if it is a user's own."""
    source = source_identity(loss)
    return {"loss": without_folder(loss), "loss_source": source} if source else {"loss": loss}


def distillation_content(distill: DistillConfig, image_settings: Collection[str]) -> dict[str, Any]:
    """Return the settings that decide the result of a distillation, given its experts and its data.

    Args:
        distill: all settings of a distillation.
        image_settings: names of the settings that only its image variable reads (see `Workbench.image_settings`).
    """
    read_names = {
        *_ALWAYS_READ,
        *_READ_BY_OBJECTIVE[distill.objective],
        *_READ_BY_SIMILARITY[distill.similarity],
        *image_settings,
    }
    if "blend" in read_names:
        read_names |= {*_READ_BY_BLEND[distill.blend]}
    if "matched" in read_names and distill.matched == "both-heads":
        read_names.add("merged")  # with a single network there is nothing to merge
    if distill.objective in _LEARNS_SIMILARITY and distill.similarity != "identity":
        read_names.add("similarity_lr")
    content = {_FIRST_NAMES.get(name, name): getattr(distill, name) for name in sorted(read_names)}
    content |= named_loss(distill.loss)
    if "text_target_epochs" in read_names and len({*distill.ahead}) == 1:
        del content["text_target_epochs"]
    if "minibatch" in read_names:
        content["minibatch"] = distill.minibatch_size
    return {name: value for name, value in content.items() if name not in _NEUTRAL or _NEUTRAL[name] != value}
