"""Search spaces: one file a method, an Optuna define-by-run function over the settings' own dotted names.

A space is a function `space(trial)` that suggests settings, `trial.suggest_float("distill.image_lr", ...)`, and returns
those that follow from them without being searched. `FIRST` in the same file lists the settings of the first trials,
the published ones. Name a file of this folder in `sweep.space`, or your own as `module:NAME` or `FILE.py:NAME`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna

from raydd.config import Config
from raydd.errors import ConfigError
from raydd.outside import checked, find, guarded, outside_module
from raydd.settings import with_settings

DRAWS = 32  # settings drawn to check a space: enough to meet every branch of the conditional ones

Suggest = Callable[[optuna.Trial], Mapping[str, Any]]


@dataclass(frozen=True)
class Space:
    """What a sweep searches."""

    name: str
    suggest: Suggest
    first: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)

    def settings(self, trial: optuna.Trial) -> dict[str, Any]:
        """The dotted settings of a trial: those that the space suggests, and those that it returns.

        Raises:
            ConfigError: the function fails, or returns something else than a mapping.
        """
        constants = checked(self.suggest(trial), Mapping, self.name, "sweep.space")
        return {**trial.params, **constants}


def spaces() -> dict[str, str]:
    """The search spaces of this folder by name, each with the `module:NAME` of its function."""
    files = sorted(file.stem for file in Path(__file__).parent.glob("*.py") if not file.stem.startswith("_"))
    return {name: f"{__name__}.{name}:space" for name in files}


def load_space(name: str) -> Space:
    """The space of a file of this folder, or a user's own as `module:NAME` or `FILE.py:NAME`, which is run as code.

    `FIRST` comes from the module or file that is named.

    Raises:
        ConfigError: there is no such space, its file fails, or it is something else.
    """
    known = spaces()
    wanted = 'a function, as in def space(trial): ... return {"distill.blend": "none"}'
    own = name if ":" in name else find(name, known, "sweep.space", str, wanted)
    function: Suggest = find(own, {}, "sweep.space", None, wanted)
    first = getattr(outside_module(own, "sweep.space"), "FIRST", ())
    if not isinstance(first, list | tuple) or not all(isinstance(settings, Mapping) for settings in first):
        raise ConfigError(
            f"sweep.space {name}: FIRST must be a tuple of mappings from settings to values. "
            'Write FIRST = ({"distill.image_lr": 0.1},).'
        )
    return Space(name, guarded(function, own, "sweep.space"), tuple(first))


def draw_configs(space: Space, config: Config) -> list[Config]:
    """The first trials and some random ones as configs, so that a wrong name or range shows before any work.

    Raises:
        ConfigError: what is wrong with which settings of the space.
    """
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for settings in space.first:
        _with(space, config, settings)  # optuna passes over names that the function does not suggest
        study.enqueue_trial(dict(settings))
    return [_drawn(space, config, study.ask()) for _ in range(len(space.first) + DRAWS)]


def _drawn(space: Space, config: Config, trial: optuna.Trial) -> Config:
    try:
        settings = space.settings(trial)
    except ConfigError as error:
        raise ConfigError(f"{error} It had suggested {trial.params}.") from error
    return _with(space, config, settings)


def _with(space: Space, config: Config, settings: Mapping[str, Any]) -> Config:
    try:
        return with_settings(config, settings)
    except ConfigError as error:
        raise ConfigError(f"The search space {space.name} suggests what cannot be set. {error}") from error
