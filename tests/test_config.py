import ast
import dataclasses
import inspect

import pytest

from raydd import config
from raydd.config import Config, DataConfig, DistillConfig, EvaluateConfig, ExpertsConfig, FeaturesConfig, SweepConfig
from raydd.errors import ConfigError


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
    ("starts", "ahead", "epochs"),
    [
        (1, 1, (0, 1)),
        (2, 1, (0, 1, 2)),
        (2, 7, (0, 1, 7, 8)),
        (3, 2, (0, 1, 2, 3, 4)),
    ],
)
def test_expert_epochs_are_the_starts_and_their_targets(starts: int, ahead: int, epochs: tuple[int, ...]):
    assert DistillConfig(max_start_epoch=starts, target_epochs=ahead).expert_epochs == epochs


@pytest.mark.parametrize(
    ("section", "settings", "named"),
    [
        (DataConfig, {"val_share": 0.0}, "data.val_share"),
        (DataConfig, {"val_share": 0.6}, "data.val_share"),
        (FeaturesConfig, {"views": 0}, "features.views"),
        (ExpertsConfig, {"count": 0}, "experts.count"),
        (ExpertsConfig, {"dropout": 1.0}, "experts.dropout"),
        (ExpertsConfig, {"lr": float("nan")}, "experts.lr"),
        (DistillConfig, {"pairs": 1}, "distill.pairs"),
        (DistillConfig, {"minibatch": 100}, "distill.minibatch"),
        (DistillConfig, {"rank": 100}, "distill.rank"),
        (DistillConfig, {"blend_ratio": 1.1}, "distill.blend_ratio"),
        (DistillConfig, {"image_lr": -1.0}, "distill.image_lr"),
        (EvaluateConfig, {"seeds": 0}, "evaluate.seeds"),
        (SweepConfig, {"objectives": ("bytes",)}, "sweep.objectives"),
        (SweepConfig, {"name": "a/b"}, "sweep.name"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(section: type, settings: dict, named: str):
    with pytest.raises(ConfigError, match=named):
        section(**settings)
