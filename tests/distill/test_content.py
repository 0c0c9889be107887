"""The name of a synthetic set: what a switch leaves unread does not rename it, and what is read does."""

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from stage_settings import TINY

import raydd
from raydd import stages
from raydd.config import DistillConfig
from raydd.distill.content import distillation_content
from raydd.distill.synthetic import SyntheticSet
from raydd.errors import ConfigError
from raydd.protocols import PROTOCOLS
from raydd.settings import load
from raydd.store import Store

PLACES = ("method", "checkpoint_every")  # a name for settings that are all there, and when a state is kept
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "method": st.sampled_from(["repblend", "lors"]),
    "protocol": st.sampled_from(["heads", "encoder"]),
    "images": st.sampled_from(["features-then-pixels", "features", "pixels"]),
    "start": st.sampled_from(["random", "herding"]),
    "minibatch_order": st.sampled_from(["permutations", "random"]),
    "blend": st.sampled_from(["none", "beta", "fixed", "noise"]),
    "blend_sides": st.sampled_from(["both", "image", "text"]),
    "similarity": st.sampled_from(["low-rank", "identity", "full"]),
    "loss": st.sampled_from(["infonce", "wbce", "bce"]),
    "matched": st.sampled_from(["both-heads", "text-head"]),
    "gradient": st.sampled_from(["exact", "constant-memory"]),
    "objective": st.sampled_from(["trajectory", "covariance", "projector", "ridge", "distribution", "gradient"]),
    "optimizer": st.sampled_from(["sgd", "adam"]),
    "schedule": st.sampled_from(["constant", "cosine"]),
    "merged": st.booleans(),
    "fit_rates": st.booleans(),
    "pairs": st.integers(10, 12),
    "minibatch": st.sampled_from([0, 4, 5, 6]),
    "rank": st.integers(1, 10),
    **dict.fromkeys(
        ("steps", "steps_per_encoding", "student_steps", "max_start_epoch", "target_epochs", "checkpoint_every"),
        st.integers(1, 9),
    ),
    "seed": st.integers(0, 9),
    "image_size": st.integers(0, 9),
    "real_minibatch": st.integers(2, 9),
}
REST = st.sampled_from([0.01, 0.1, 0.5, 0.9])  # of all numbers between 0 and 1


def strategy(name: str) -> st.SearchStrategy[Any]:
    return VALUES.get(name, REST)


def content(config: DistillConfig) -> dict[str, Any]:
    return distillation_content(config, PROTOCOLS[config.protocol].image_settings[config.images])


@st.composite
def configs(draw: st.DrawFn) -> DistillConfig:
    try:
        return DistillConfig(**{field.name: draw(strategy(field.name)) for field in fields(DistillConfig)})
    except ConfigError:  # which protocol encoder raises for all but pixels
        assume(False)
        raise


def is_read(name: str, config: DistillConfig) -> bool:
    """Whether a distillation of these settings looks at one of them, said once more, by what the documentation says."""
    heads, lowered = config.protocol == "heads", config.objective
    walks = lowered == "trajectory"
    conditions = {
        **dict.fromkeys(("student_steps", "minibatch", "minibatch_order", "max_start_epoch", "gradient"), walks),
        **dict.fromkeys(("blend", "matched", "all_experts_at", "text_target_epochs"), walks),
        "target_epochs": walks or lowered == "distribution",
        "rate_lr": lowered in ("trajectory", "ridge", "gradient"),
        "covariance_scale": lowered == "covariance",
        "mean_weight": lowered in ("covariance", "projector"),
        "ridge_strength": lowered in ("ridge", "projector"),
        "real_minibatch": lowered in ("ridge", "distribution", "gradient"),
        "blend_beta": walks and config.blend in ("beta", "noise"),
        "blend_ratio": walks and config.blend == "fixed",
        "blend_sides": walks and config.blend != "none",
        "rank": config.similarity == "low-rank",
        "alpha": config.similarity == "low-rank",
        "similarity_lr": config.similarity != "identity" and lowered in ("trajectory", "ridge", "gradient"),
        **dict.fromkeys(("steps_per_encoding", "least_crop"), heads and config.images == "pixels"),
        "image_size": heads and config.images != "features",
        "range_pull": heads and config.images == "features",
        "encoder_rate": not heads,
        "merged": walks and config.matched == "both-heads",
        "protocol": False,  # it decides the experts, whose record is upstream
    }
    return name not in PLACES and conditions.get(name, True)


@given(configs(), st.sampled_from([field.name for field in fields(DistillConfig)]), st.data())
def test_a_setting_renames_a_set_if_and_only_if_it_is_read(config: DistillConfig, name: str, data: st.DataObject):
    try:
        other = replace(config, **{name: data.draw(strategy(name))})
    except ConfigError:
        assume(False)
        raise
    assume(getattr(other, name) != getattr(config, name))
    assume(name != "protocol")
    renames = is_read(name, config) or is_read(name, other)
    if name in ("minibatch", "pairs"):  # by the size that comes out
        sizes = [(own.pairs, own.minibatch_size if is_read("minibatch", own) else 0) for own in (config, other)]
        renames = sizes[0] != sizes[1]
    if name == "text_target_epochs":
        renames = renames and other.ahead != config.ahead
    assert (content(other) != content(config)) == renames


@given(configs())
def test_every_setting_that_is_read_is_named_or_neutral(config: DistillConfig):
    named = content(config)
    for field in fields(DistillConfig):
        if field.name == "minibatch":
            assert named.get("minibatch", config.minibatch_size) == config.minibatch_size
        elif field.name in named:
            assert is_read(field.name, config), field.name
            assert named[field.name] == getattr(config, field.name)


UNREAD: list[tuple[dict[str, Any], str, Any]] = [
    ({"distill.blend": "none"}, "distill.blend_beta", 0.2),
    ({"distill.blend": "none"}, "distill.blend_ratio", 0.9),
    ({"distill.blend": "none"}, "distill.blend_sides", "text"),
    ({"distill.blend": "fixed"}, "distill.blend_beta", 0.2),
    ({"distill.blend": "beta"}, "distill.blend_ratio", 0.9),
    ({"distill.similarity": "identity"}, "distill.rank", 1),
    ({"distill.similarity": "identity"}, "distill.alpha", 9.0),
    ({"distill.similarity": "identity"}, "distill.similarity_lr", 0.9),
    ({"distill.similarity": "full"}, "distill.rank", 1),
    ({"distill.similarity": "full"}, "distill.alpha", 9.0),
    ({}, "distill.steps_per_encoding", 2),
    ({}, "distill.least_crop", 0.5),
    ({"distill.images": "features"}, "distill.image_size", 112),
    ({}, "distill.encoder_rate", 0.9),
    ({"distill.matched": "text-head"}, "distill.merged", True),
    ({"distill.images": "pixels"}, "distill.range_pull", 1.0),
    ({"distill.fit_rates": False}, "students.epochs", 9),
    ({}, "students.batch_size", 6),
    ({"students.momentum": 0.0}, "students.rate", "published"),
    ({}, "evaluate.choice", "best-on-split"),
    ({}, "evaluate.split", "val"),
    ({}, "experts.epochs", 5),
    ({"distill.objective": "covariance"}, "experts.lr", 0.3),
    ({"distill.objective": "covariance"}, "distill.student_steps", 2),
    ({"distill.objective": "ridge"}, "experts.count", 1),
    ({"distill.objective": "gradient"}, "experts.seed", 5),
]
READ: list[tuple[dict[str, Any], str, Any]] = [
    ({"distill.blend": "beta"}, "distill.blend_beta", 0.2),
    ({"distill.blend": "fixed"}, "distill.blend_ratio", 0.9),
    ({"distill.blend": "fixed"}, "distill.blend_sides", "text"),
    ({"distill.blend": "noise"}, "distill.blend_beta", 0.2),
    ({"distill.blend": "noise"}, "distill.blend_sides", "text"),
    ({"distill.similarity": "low-rank"}, "distill.rank", 1),
    ({"distill.similarity": "low-rank"}, "distill.alpha", 9.0),
    ({"distill.similarity": "full"}, "distill.similarity_lr", 0.9),
    ({"distill.images": "pixels"}, "distill.steps_per_encoding", 2),
    ({"distill.images": "pixels"}, "distill.least_crop", 0.5),
    ({"distill.images": "pixels"}, "distill.image_size", 112),
    ({}, "distill.range_pull", 1.0),
    ({"distill.matched": "both-heads"}, "distill.merged", True),
    ({"experts.count": 2}, "experts.count", 1),
    ({}, "experts.temperature", 0.5),
    ({"distill.objective": "covariance"}, "distill.covariance_scale", 2.0),
    ({"distill.objective": "covariance"}, "distill.mean_weight", 1.0),
    ({"distill.objective": "projector"}, "distill.mean_weight", 1.0),
    ({"distill.objective": "ridge"}, "distill.ridge_strength", 1.0),
    ({"distill.objective": "ridge"}, "distill.real_minibatch", 5),
    ({"distill.objective": "distribution"}, "experts.lr", 0.3),
    ({"distill.objective": "gradient"}, "experts.width", 8),
]


@pytest.fixture
def set_of(tiny_data, tmp_path):
    """The name of the set of some settings, and the set, each made in a store that has nothing of another one."""

    def made(settings: dict[str, Any]) -> tuple[str, SyntheticSet]:
        tiny = {**TINY, "distill.images": "features", "distill.steps": 5, "distill.steps_per_encoding": 1}
        own = {"data.root": str(tiny_data), "distill.image_lr": 0.5, "distill.range_pull": 0.0}
        work = raydd.open(load(settings={**tiny, **own, **settings}), Store(tmp_path / str(len(stores))))
        stores.append(work)
        return stages.synthetic_record(work).fingerprint, stages.final_synthetic(work)

    stores: list[Any] = []
    return made


def same(one: SyntheticSet, other: SyntheticSet) -> bool:
    mine, its = one.tensors(), other.tensors()
    return mine.keys() == its.keys() and all(torch.equal(mine[name], its[name]) for name in mine)


@pytest.mark.parametrize(("base", "name", "value"), UNREAD, ids=lambda value: str(value))
def test_what_is_unread_changes_neither_the_set_nor_its_name(set_of, base, name, value):
    (one, made), (other, again) = set_of(base), set_of({**base, name: value})
    assert one == other
    assert same(made, again)


@pytest.mark.parametrize(("base", "name", "value"), READ, ids=lambda value: str(value))
def test_what_is_read_changes_the_set_and_its_name(set_of, base, name, value):
    (one, made), (other, again) = set_of(base), set_of({**base, name: value})
    assert one != other
    assert not same(made, again)
