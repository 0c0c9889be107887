"""Search spaces: one file a method, an Optuna define-by-run function over the settings' own dotted names.

A space is a function `space(trial)` that suggests settings, `trial.suggest_float("distill.image_lr", ...)`, and returns
those that follow from them without being searched. `FIRST` in the same file lists the settings of the first trials,
the published ones. Name a file of this folder, or your own as `FILE.py:FUNCTION`, in `sweep.space`.
"""

import importlib.util
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna

from raydd.config import Config
from raydd.errors import ConfigError, nearest
from raydd.settings import with_settings

DRAWS = 32  # settings drawn to check a space: enough to meet every branch of the conditional ones


@dataclass(frozen=True)
class Space:
    """What a sweep searches."""

    name: str
    suggest: Callable[[optuna.Trial], Mapping[str, Any]]
    first: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)

    def settings(self, trial: optuna.Trial) -> dict[str, Any]:
        """The dotted settings of a trial: what the space suggests, and what it sets beside that."""
        constants = self.suggest(trial)
        return {**trial.params, **constants}


def load_space(name: str) -> Space:
    """The space of a file of this folder, or of a user's own `FILE.py:FUNCTION`, which is run as code.

    Raises:
        ConfigError: there is no such file or function, or the file cannot be imported.
    """
    file, colon, function = name.rpartition(":")
    if not colon:
        folder = Path(__file__).parent
        known = sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))
        if name not in known:
            raise ConfigError(f"There is no search space {name!r}. {nearest(name, known)} Or give FILE.py:FUNCTION.")
        file, function = str(folder / f"{name}.py"), "space"
    module = _import(Path(file))
    functions: dict[str, Any] = {key: value for key, value in vars(module).items() if inspect.isfunction(value)}
    if function not in functions:
        raise ConfigError(f"{file} has no function {function!r}. {nearest(function, functions)}")
    return Space(name, functions[function], tuple(getattr(module, "FIRST", ())))


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
    except Exception as error:  # a user's own code can raise anything
        raise ConfigError(
            f"The search space {space.name} failed with {type(error).__name__}: {error}, "
            f"after it had suggested {trial.params}. Correct the function."
        ) from error
    return _with(space, config, settings)


def _with(space: Space, config: Config, settings: Mapping[str, Any]) -> Config:
    try:
        return with_settings(config, settings)
    except ConfigError as error:
        raise ConfigError(f"The search space {space.name} suggests what cannot be set. {error}") from error


def _import(file: Path) -> Any:
    if not file.is_file():
        raise ConfigError(f"The search space's file {file} is not there. Give it as FILE.py:FUNCTION.")
    spec = importlib.util.spec_from_file_location(f"raydd_space_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"The search space's file {file} is not Python. Give it as FILE.py:FUNCTION.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # a user's own file can raise anything
        raise ConfigError(
            f"The search space's file {file} cannot be run ({type(error).__name__}: {error}). Correct it."
        ) from error
    return module
