import sys

import optuna
import pytest

from raydd.config import Config
from raydd.distill.methods import METHODS
from raydd.errors import ConfigError
from raydd.settings import flatten, load
from search_spaces import draw_configs, load_space, spaces, with_fixed_settings


def write(folder, text):
    path = folder / "mine.py"
    path.write_text(text)
    return f"{path}:mine"


def test_the_bundled_space_builds_configs():
    space = load_space("matching")
    configs = draw_configs(space, Config())
    assert space.first
    assert {config.distill.blend for config in configs} == {"none", "beta", "fixed"}


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.space])
def test_a_method_s_space_keeps_what_makes_it_that_method(name):
    method, space = METHODS[name], load_space(METHODS[name].space)
    configs = draw_configs(space, load(settings={"distill.method": name}))
    changed = {key for config in configs for key, value in method.settings.items() if flatten(config)[key] != value}
    assert changed <= {"distill.loss"}  # which some of the spaces search
    assert all(space.first[-1].get(key, value) == value for key, value in method.published.items() if "mini" not in key)


@pytest.mark.parametrize("name", spaces())
def test_first_settings_leave_nothing_to_chance(name):
    space = load_space(name)
    study = optuna.create_study()
    for settings in space.first:
        study.enqueue_trial(dict(settings))
        trial = study.ask()
        space.settings(trial)
        assert trial.params.items() <= dict(settings).items(), name
        assert all(
            kind._contains(kind.to_internal_repr(trial.params[one])) for one, kind in trial.distributions.items()
        )


def test_an_unknown_space_is_answered_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"Did you mean 'repblend'\?"):
        load_space("repblend2")


@pytest.mark.parametrize("pairs", [3, 99])
def test_every_space_of_the_folder_builds_configs(pairs):
    for name in spaces():
        assert draw_configs(load_space(name), load(settings={"distill.pairs": pairs})), name


@pytest.mark.parametrize("by", ["file", "module"])
def test_a_users_own_space(tmp_path, monkeypatch, by):
    text = """
FIRST = ({"distill.image_lr": 0.1},)

def mine(trial):
    return {"distill.rank": 1 + int(trial.suggest_float("distill.image_lr", 0.01, 0.5) > 0.2)}
"""
    name = write(tmp_path, text)
    if by == "module":
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "mine", raising=False)
        name = "mine:mine"
    space = load_space(name)
    draw_configs(space, Config())
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    assert space.first == ({"distill.image_lr": 0.1},)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def mine(trial):\n    trial.suggest_float('distill.imag_lr', 0, 1)\n    return {}", "distill.image_lr"),
        (
            "def mine(trial):\n    trial.suggest_int('distill.minibatch', 1, 1)\n    return {}",
            "distill.minibatch is",
        ),
        ("def mine(trial):\n    return {'distill.ranks': 3}", "distill.rank"),
        ("def mine(trial):\n    return 1 / 0", "ZeroDivisionError"),
        ("FIRST = ({'distill.rnak': 3},)\ndef mine(trial):\n    return {}", "distill.rank"),
        ("def other(trial):\n    return {}", "has no 'mine'"),
        ("import nowhere_at_all", "cannot be imported in line 1: ModuleNotFoundError"),
        ("def mine(trial):\n    return 3", "returned an int, but must return a mapping"),
        ("def mine(trial):\n    return mine(trial)", "mine.py line 2: RecursionError"),
        ("def mine(trial):\n    raise SystemExit", "mine.py line 2: SystemExit. Correct"),
        ("def mine(trial):\n    trial.suggest_int('distill.rank', 3, 3)\n    1 / 0", "suggested {'distill.rank': 3}"),
        ("FIRST = 3\ndef mine(trial):\n    return {}", "FIRST must be a tuple of mappings"),
        ("mine = 3", "is an int, but must be a function"),
    ],
)
def test_a_wrong_space_is_named_before_any_trial(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        draw_configs(load_space(write(tmp_path, text)), Config())


def test_what_the_user_set_is_not_searched():
    config = load(settings={"distill.steps": 50, "distill.blend": "fixed", "experts.width": 0})
    given = {"distill.steps", "distill.blend", "experts.width", "distill.pairs"}
    space = with_fixed_settings(load_space("matching"), config, given)
    assert set(space.fixed) == given - {"distill.pairs"}  # which the space says nothing of
    drawn = draw_configs(space, config)
    assert {(one.distill.steps, one.distill.blend, one.experts.width) for one in drawn} == {(50, "fixed", 0)}
    assert len({one.distill.blend_ratio for one in drawn}) > 20  # what hangs on a kept choice is searched
    assert len({one.distill.image_lr for one in drawn}) > 20
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0)).ask()
    assert not given & space.settings(trial).keys()
    assert not given & trial.params.keys()
    assert all(not given & first.keys() for first in space.first)


def test_first_settings_that_are_the_same_without_what_was_set_come_once():
    whole = load_space("matching")
    unblended = with_fixed_settings(whole, Config(), {"distill.blend"})
    assert len(unblended.first) == len(whole.first) - 1  # RepBlend's and LoRS's switches differ by blending alone


def test_a_space_whose_settings_are_all_set_is_refused():
    space = load_space("demo")
    names = {name for one in space.first for name in one}
    with pytest.raises(ConfigError, match=r"there is nothing to search\. Leave out some of these flags"):
        with_fixed_settings(space, Config(), names)
    assert with_fixed_settings(space, Config(), {"distill.pairs"}) == space


def test_a_missing_file(tmp_path):
    with pytest.raises(ConfigError, match="there is no file"):
        load_space(f"{tmp_path}/none.py:mine")


def test_first_settings_that_differ_only_in_what_is_not_read_are_one():
    given = {"distill.blend": "none", "distill.similarity": "identity"}
    config = load(settings=given)
    space = with_fixed_settings(load_space("matching"), config, given)
    unread = {"distill.blend_beta", "distill.rank", "distill.alpha", "distill.similarity_lr"}
    assert not any(unread & settings.keys() for settings in space.first)
    assert len({tuple(sorted(settings.items())) for settings in space.first}) == len(space.first)
    assert len(space.first) < len(load_space("matching").first)
    assert {config.distill.blend for config in draw_configs(space, config)} == {"none"}


def test_a_wrong_name_among_first_settings_is_told_whatever_flags_set(tmp_path):
    text = """
FIRST = ({"distill.image_lr": 0.1, "distill.imagelr": 0.2},)
def mine(trial):
    trial.suggest_float("distill.image_lr", 0.01, 1.0)
    trial.suggest_float("distill.text_lr", 0.01, 1.0)
    return {}
"""
    space = with_fixed_settings(load_space(write(tmp_path, text)), Config(), {"distill.text_lr"})
    with pytest.raises(ConfigError, match="imagelr"):
        draw_configs(space, Config())
