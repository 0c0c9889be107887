import ast
import dataclasses
import inspect
import math

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raydd import config
from raydd.config import (
    CompareConfig,
    Config,
    DataConfig,
    DistillConfig,
    EvaluateConfig,
    ExpertsConfig,
    FeaturesConfig,
    PlaceConfig,
    SweepConfig,
)
from raydd.errors import ConfigError
from raydd.ranges import as_name, check_name


def test_every_setting_says_what_it_is():
    module = ast.parse(inspect.getsource(config))
    for section in (node for node in module.body if isinstance(node, ast.ClassDef) and node.name != "Config"):
        for field, after in zip(section.body, section.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign):
                documented = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                assert documented, f"{section.name}: {ast.unparse(field)}"


def test_settings_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().distill.pairs = 9  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("starts", "ahead", "text_ahead", "epochs"),
    [
        (1, 1, 0, (0, 1)),
        (2, 1, 0, (0, 1, 2)),
        (2, 7, 0, (0, 1, 7, 8)),
        (3, 2, 0, (0, 1, 2, 3, 4)),
        (2, 5, 1, (0, 1, 2, 5, 6)),
    ],
)
def test_expert_epochs_are_the_starts_and_their_targets(
    starts: int, ahead: int, text_ahead: int, epochs: tuple[int, ...]
):
    config = DistillConfig(max_start_epoch=starts, target_epochs=ahead, text_target_epochs=text_ahead)
    assert config.expert_epochs == epochs


def test_annealed_step_sizes_fall_along_a_line_to_zero_over_the_epochs():
    kept, annealed = ExpertsConfig(), ExpertsConfig(anneal=2)
    assert kept.lr_multipliers(7, 3) == [1.0, 1.0, 1.0]
    assert annealed.lr_multipliers(1, 4) + annealed.lr_multipliers(2, 4) == [
        1.0,
        0.875,
        0.75,
        0.625,
        0.5,
        0.375,
        0.25,
        0.125,
    ]
    assert annealed.lr_multipliers(3, 4) == [0.0] * 4
    assert (kept.last_epoch, annealed.last_epoch, ExpertsConfig(epochs=1, anneal=2).last_epoch) == (6, 2, 1)
    assert [recipe.within(epochs) for recipe in (kept, annealed) for epochs in (1, 10)] == [1, 10, 1, 2]


def test_a_target_beyond_an_annealed_trajectory_is_refused():
    Config(experts=ExpertsConfig(anneal=4), distill=DistillConfig(max_start_epoch=2, target_epochs=3))
    with pytest.raises(ConfigError, match=r"target epoch is 5.*experts\.anneal"):
        Config(experts=ExpertsConfig(anneal=4), distill=DistillConfig(max_start_epoch=3, target_epochs=3))


@pytest.mark.parametrize(
    ("section", "settings", "named"),
    [
        (DataConfig, {"val_share": 0.0}, "data.val_share"),
        (DataConfig, {"val_share": 0.6}, "data.val_share"),
        (FeaturesConfig, {"views": 0}, "features.views"),
        (ExpertsConfig, {"count": 0}, "experts.count"),
        (ExpertsConfig, {"anneal": -1}, "experts.anneal"),
        (ExpertsConfig, {"dropout": 1.0}, "experts.dropout"),
        (ExpertsConfig, {"lr": float("nan")}, "experts.lr"),
        (DistillConfig, {"pairs": 1}, "distill.pairs"),
        (DistillConfig, {"minibatch": 1}, "distill.minibatch"),
        (DistillConfig, {"rank": 0}, "distill.rank"),
        (DistillConfig, {"blend_ratio": 1.1}, "distill.blend_ratio"),
        (DistillConfig, {"image_lr": -1.0}, "distill.image_lr"),
        (EvaluateConfig, {"seeds": 0}, "evaluate.seeds"),
        (DistillConfig, {"alpha": float("inf")}, "distill.alpha"),
        (PlaceConfig, {"encode_batch": 0}, "place.encode_batch"),
        (PlaceConfig, {"threads": -1}, "place.threads"),
        (PlaceConfig, {"device": "meta"}, "place.device"),
        (CompareConfig, {"name": "a\nb"}, "compare.name"),
        (SweepConfig, {"objectives": ("bytes",)}, "sweep.objectives"),
        (SweepConfig, {"name": "a/b"}, "sweep.name"),
        (SweepConfig, {"rungs": ()}, "sweep.rungs"),
        (SweepConfig, {"rungs": (0, 5)}, "sweep.rungs"),
        (SweepConfig, {"rungs": (5, 5)}, "sweep.rungs"),
        (SweepConfig, {"rungs": (5, 99)}, "sweep.rungs"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(section: type, settings: dict, named: str):
    with pytest.raises(ConfigError, match=named):
        section(**settings)


NUMBERS = [
    (section.name, item.name, getattr(getattr(Config(), section.name), item.name))
    for section in dataclasses.fields(Config)
    for item in dataclasses.fields(getattr(Config(), section.name))
    if type(getattr(getattr(Config(), section.name), item.name)) in (int, float)
]


@pytest.mark.parametrize(("section", "name", "value"), NUMBERS, ids=[f"{one}.{two}" for one, two, _ in NUMBERS])
def test_no_number_is_absurd(section: str, name: str, value: float):
    absurd = [10**20, -(10**20)] if isinstance(value, int) else [math.nan, math.inf, -math.inf, 1e30, -1e30]
    for wrong in absurd:
        changed = dataclasses.replace
        with pytest.raises(ConfigError, match=rf"{section}\.{name} is .*, but must be .*(\d|finite)"):
            changed(Config(), **{section: changed(getattr(Config(), section), **{name: wrong})})


@pytest.mark.parametrize("name", ["a'b", 'a"b', "..", ".a", "a\nb", "", "a" * 300, "a/b", "\x1b[2J", "a%b", "a\\b"])
def test_a_name_that_is_no_name_of_a_folder_a_run_and_a_study_is_refused(name: str):
    with pytest.raises(ConfigError, match=r"sweep\.name is .*, but must be"):
        Config(sweep=SweepConfig(name=name))


@given(st.text(max_size=200))
@hypothesis.settings(max_examples=50)
def test_any_text_can_be_made_a_name(text: str):
    check_name("sweep.name", as_name(text))


@pytest.mark.parametrize(
    ("settings", "size"),
    [
        ({"pairs": 99}, 20),
        ({"pairs": 12}, 12),
        ({"pairs": 499}, 100),
        ({"pairs": 499, "minibatch": 30}, 30),
        ({"pairs": 12, "minibatch": 30}, 12),
        ({"pairs": 99, "similarity": "low-rank"}, 50),
        ({"pairs": 499, "similarity": "full"}, 100),
    ],
)
def test_a_minibatch_is_a_share_of_the_pairs_that_the_similarity_matrix_allows(settings: dict, size: int):
    assert DistillConfig(**settings).minibatch_size == size


def test_a_similarity_matrix_has_no_higher_rank_than_there_are_pairs():
    assert DistillConfig(pairs=4, rank=10).similarity_rank == 4
    assert DistillConfig(pairs=99, rank=10).similarity_rank == 10
