import pytest

from raydd.config import Config
from raydd.distill.methods import METHODS
from raydd.errors import ConfigError
from raydd.settings import flatten, load
from search_spaces import draw_configs, load_space


def write(folder, text):
    path = folder / "mine.py"
    path.write_text(text)
    return f"{path}:mine"


def test_the_bundled_space_builds_configs():
    space = load_space("repblend")
    configs = draw_configs(space, Config())
    assert space.first
    assert {config.distill.blend for config in configs} == {"none", "beta", "fixed"}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_s_space_keeps_what_makes_it_that_method(name):
    method, space = METHODS[name], load_space(METHODS[name].space)
    searched = {"distill.loss"} if name in ("lors", "repblend") else set()
    for config in draw_configs(space, load(settings={"distill.method": name})):
        assert all(flatten(config)[key] == value for key, value in method.settings.items() if key not in searched)
    assert all(space.first[1].get(key, value) == value for key, value in method.published.items() if "mini" not in key)


def test_an_unknown_space_is_answered_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"Did you mean 'repblend'\?"):
        load_space("repblend2")


def test_a_users_own_space(tmp_path):
    text = """
FIRST = ({"distill.image_lr": 0.1},)

def mine(trial):
    return {"distill.rank": 1 + int(trial.suggest_float("distill.image_lr", 0.01, 0.5) > 0.2)}
"""
    space = load_space(write(tmp_path, text))
    draw_configs(space, Config())
    assert space.first == ({"distill.image_lr": 0.1},)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def mine(trial):\n    trial.suggest_float('distill.imag_lr', 0, 1)\n    return {}", "distill.image_lr"),
        ("def mine(trial):\n    trial.suggest_int('distill.rank', 50, 200)\n    return {}", "distill.rank is"),
        ("def mine(trial):\n    return {'distill.ranks': 3}", "distill.rank"),
        ("def mine(trial):\n    return 1 / 0", "ZeroDivisionError"),
        ("FIRST = ({'distill.rnak': 3},)\ndef mine(trial):\n    return {}", "distill.rank"),
        ("def other(trial):\n    return {}", "no function 'mine'"),
        ("import nowhere_at_all", "cannot be run"),
    ],
)
def test_a_wrong_space_is_named_before_any_trial(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        draw_configs(load_space(write(tmp_path, text)), Config())


def test_a_missing_file(tmp_path):
    with pytest.raises(ConfigError, match="is not there"):
        load_space(f"{tmp_path}/none.py:mine")
