"""Search spaces, one file per method: Optuna define-by-run functions over the dotted names of settings.

A space is a function `space(trial)`. It suggests settings, as `trial.suggest_float("distill.image_lr", ...)`, and
returns further settings that are not searched. `FIRST` in the same file lists the settings of the first trials, among
them the published ones. Name a file of this folder in `sweep.space`, or your own as `module:NAME` or `FILE.py:NAME`.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import optuna

from raydd.config import Config
from raydd.errors import ConfigError
from raydd.outside import checked, find, guarded, outside_module
from raydd.settings import flatten, with_settings

DRAWS = 32  # trials drawn to check a space: enough to reach every branch of a conditional space

Suggest = Callable[[optuna.Trial], Mapping[str, Any]]


@dataclass(frozen=True)
class Space:
    """A search space."""

    name: str
    suggest: Suggest
    first: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Settings that the space would search, with the values that the user fixed."""

    def settings(self, trial: optuna.Trial) -> dict[str, Any]:
        """Return the dotted settings of a trial: those that the space suggests, and those that it returns.

        Raises:
            ConfigError: the function fails, or does not return a mapping.
        """
        wrapped_trial: Any = _FixedSettingsTrial(trial, self.fixed) if self.fixed else trial
        constants = checked(self.suggest(wrapped_trial), Mapping, self.name, "sweep.space")
        return {name: value for name, value in {**trial.params, **constants}.items() if name not in self.fixed}


class _FixedSettingsTrial:
    """A trial that suggests the kept values for some settings, and asks the sampler only for the others."""

    def __init__(self, trial: optuna.Trial, fixed: Mapping[str, Any]) -> None:
        self._trial, self._fixed = trial, fixed

    @property
    def params(self) -> dict[str, Any]:
        return {**self._trial.params, **self._fixed}

    def __getattr__(self, attribute: str) -> Any:
        member = getattr(self._trial, attribute)
        if not attribute.startswith("suggest_"):
            return member

        def suggest(name: str, *arguments: Any, **options: Any) -> Any:
            return self._fixed[name] if name in self._fixed else member(name, *arguments, **options)

        return suggest


def spaces() -> dict[str, str]:
    """Return the search spaces of this folder by name, each with the `module:NAME` of its function."""
    files = sorted(file.stem for file in Path(__file__).parent.glob("*.py") if not file.stem.startswith("_"))
    return {name: f"{__name__}.{name}:space" for name in files}


def load_space(name: str) -> Space:
    """Load a space of this folder, or a user's own as `module:NAME` or `FILE.py:NAME`, which is run as code.

    `FIRST` is read from the same module or file.

    Raises:
        ConfigError: there is no such space, its file fails, or the object is not a space.
    """
    available = spaces()
    expected = 'a function, as in def space(trial): ... return {"distill.blend": "none"}'
    reference = name if ":" in name else find(name, available, "sweep.space", str, expected)
    function: Suggest = find(reference, {}, "sweep.space", None, expected)
    first = getattr(outside_module(reference, "sweep.space"), "FIRST", ())
    if not isinstance(first, list | tuple) or not all(isinstance(settings, Mapping) for settings in first):
        raise ConfigError(
            f"sweep.space {name}: FIRST must be a tuple of mappings from settings to values. "
            'Write FIRST = ({"distill.image_lr": 0.1},).'
        )
    return Space(name, guarded(function, reference, "sweep.space"), tuple(first))


def with_fixed_settings(space: Space, config: Config, given_names: Collection[str]) -> Space:
    """Return the space without the settings that the user gave by flags: all trials have the config's values for them.

    Args:
        space: as `load_space` returns it.
        config: holds the values.
        given_names: names of settings that the user gave, whether the space searches them or not.

    Raises:
        ConfigError: nothing is left to search.
    """
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    trials = [study.ask() for _ in range(DRAWS)]
    setting_names = {name for trial in trials for name in space.settings(trial)}
    fixed = {name: value for name, value in flatten(config).items() if name in setting_names and name in given_names}
    if not fixed:
        return space
    if {name for trial in trials for name in trial.params} <= fixed.keys():
        raise ConfigError(
            f"Your flags set everything that the search space {space.name} searches, so there is nothing to search. "
            "Leave out some of these flags, or run your settings with `raydd run`."
        )
    restricted, first_settings = replace(space, fixed=fixed), []
    for settings in space.first:
        study.enqueue_trial(dict(settings))
        trial = study.ask()
        restricted.settings(trial)
        unread = setting_names - trial.params.keys()  # keep names that the space never asks for: they are refused later
        read = {name: value for name, value in settings.items() if name not in unread}
        # Two of the first settings may have differed only in settings that are kept or unread.
        first_settings += [read] if read not in first_settings else []
    return replace(restricted, first=tuple(first_settings))


def draw_configs(space: Space, config: Config) -> list[Config]:
    """Return the first trials and some random ones as configs, so that a wrong name or range fails before any work.

    Raises:
        ConfigError: a trial is invalid; the message names its settings and what is wrong.
    """
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for settings in space.first:
        _valid_config(space, config, settings)  # Optuna ignores names that the function does not suggest
        study.enqueue_trial(dict(settings))
    return [_trial_config(space, config, study.ask()) for _ in range(len(space.first) + DRAWS)]


def _trial_config(space: Space, config: Config, trial: optuna.Trial) -> Config:
    try:
        settings = space.settings(trial)
    except ConfigError as error:
        raise ConfigError(f"{error} The space had suggested {trial.params}.") from error
    return _valid_config(space, config, settings)


def _valid_config(space: Space, config: Config, settings: Mapping[str, Any]) -> Config:
    try:
        return with_settings(config, settings)
    except ConfigError as error:
        raise ConfigError(f"The search space {space.name} suggests an invalid setting. {error}") from error
