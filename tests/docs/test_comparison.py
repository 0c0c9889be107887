"""The files behind the tables of docs/comparison still say what raydd can do."""

from pathlib import Path

import pytest

from raydd.compare.plans import plan_of
from raydd.settings import load
from search_spaces import draw_configs, load_space

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs/comparison"


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("*.yaml")))
def test_every_comparison_has_known_settings_and_rows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("FLICKR8K", "/data/flickr8k")
    config = load(FOLDER / name)
    plans = [plan_of(config, method, "data", pairs, "", {}) for method in config.compare.methods for pairs in (99, 199)]
    assert "/data/flickr8k" in (config.data.root, config.data.images)
    sizes = {
        plan.config.distill.pairs + (plan.config.distill.similarity != "identity")
        for plan in plans
        if plan.kind == "synthetic"
    }
    assert sizes == {100, 200}  # a learned similarity is a pair


@pytest.mark.parametrize("space", ["plain.py:features", "plain.py:pixels", "starts.py:space"])
def test_every_search_space_leaves_out_blending_and_the_similarity(space: str) -> None:
    configs = draw_configs(load_space(f"{FOLDER}/{space}"), load())
    assert {(config.distill.blend, config.distill.similarity) for config in configs} == {("none", "identity")}
    assert len({config.distill.seed for config in configs}) > 1
