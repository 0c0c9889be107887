"""Settings from files, presets and dotted names to a `Config`, and back.

Later ones win: the defaults of `raydd.config`, the method's, the protocol's, a preset's, a YAML file's, then flags or a
trial's.
"""

import dataclasses
import functools
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from raydd.config import Config
from raydd.distill.loss_names import own_loss
from raydd.distill.methods import find_method
from raydd.errors import ConfigError, nearest
from raydd.presets import PRESETS

if TYPE_CHECKING:
    from pydantic import TypeAdapter


# Settings that name files and folders: `~` and `$NAME` in them are replaced.
_PATHS = (
    *("data.root", "data.images", "encoders.image_weights", "encoders.text_weights", "evaluate.classes"),
    *("evaluate.unseen", "compare.data", "place.home", "place.store"),
)
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})")

# Defaults of a protocol, where they cannot be those of the heads'.
_PROTOCOLS: Mapping[str, Mapping[str, Any]] = {"encoder": {"distill.space": "pixels"}}


def load(
    file: str | Path | None = None,
    preset: str | None = None,
    settings: Mapping[str, Any] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> Config:
    """Build a `Config` from a preset, a YAML file and dotted settings, on top of the chosen method's defaults.

    `defaults` are a command's own; they win over the method's, and all others win over them.

    Raises:
        ConfigError: a file that is not there or not YAML, an unknown name, a value of the wrong type or out of range.
    """
    given = {**(defaults or {}), **given_settings(file, preset, settings)}
    method = find_method(str(given.get("distill.method", Config().distill.method)))
    protocol = _PROTOCOLS.get(str(given.get("distill.protocol")), {})
    return with_settings(Config(), {**method.settings, **protocol, **given})


def given_settings(
    file: str | Path | None = None, preset: str | None = None, settings: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The dotted settings that a user gave: a preset's, the file's over them, then the others.

    Raises:
        ConfigError: an unknown preset, or a file that is not there or not YAML.
    """
    return {**_preset(preset), **(_file(file) if file else {}), **(settings or {})}


def with_settings(config: Config, settings: Mapping[str, Any]) -> Config:
    """The config with some settings replaced, named with dots: `{"distill.image_lr": 0.1}`.

    Raises:
        ConfigError: an unknown name, a value of the wrong type or out of range.
    """
    known = flatten(config)
    for name in settings:
        if name not in known:
            raise ConfigError(f"There is no setting {name!r}. {_nearest_setting(name, known)}")
    tree: dict[str, dict[str, Any]] = {}
    for name, value in {**known, **settings}.items():
        section, key = name.split(".")
        tree.setdefault(section, {})[key] = value
    from pydantic import ValidationError

    try:
        made = _adapter().validate_python(tree)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"][:2]))
        raise ConfigError(f"{name} is {first['input']!r}: {first['msg'].lower()}. Correct the value.") from error
    for name, loss in (("experts.loss", made.experts.loss), ("distill.loss", made.distill.loss)):
        own_loss(loss, name)
    return expand_paths(made)


def expand_paths(config: Config) -> Config:
    """The config with `~` and the environment variables `$NAME` and `${NAME}` in its paths replaced.

    Raises:
        ConfigError: a variable is not set, or is empty.
    """
    changed: dict[str, dict[str, Any]] = {}
    for name in _PATHS:
        section, key = name.split(".")
        value = getattr(getattr(config, section), key)
        found = _expand(value, name) if isinstance(value, str) else tuple(_expand(path, name) for path in value)
        if found != value:
            changed.setdefault(section, {})[key] = found
    sections = {name: dataclasses.replace(getattr(config, name), **values) for name, values in changed.items()}
    return dataclasses.replace(config, **sections) if sections else config


def _expand(path: str, setting: str) -> str:
    def value_of(found: re.Match[str]) -> str:
        variable = found[1] or found[2]
        value = os.environ.get(variable)
        if not value:
            raise ConfigError(
                f"{setting} is {path!r}, but the environment variable {variable} is not set. "
                f"Set it: `export {variable}=FOLDER`."
            )
        return value

    return os.path.expanduser(_VARIABLE.sub(value_of, path))  # noqa: PTH111 - a Path would break s3://


def with_file(config: Config, file: str | Path) -> Config:
    """The config with the settings of a YAML file in place of its own.

    Raises:
        ConfigError: as `load`.
    """
    return with_settings(config, _file(file))


def flatten(config: Config) -> dict[str, Any]:
    """All settings under their dotted names."""
    return {
        f"{section.name}.{item.name}": getattr(getattr(config, section.name), item.name)
        for section in dataclasses.fields(config)
        for item in dataclasses.fields(getattr(config, section.name))
    }


def to_yaml(config: Config) -> str:
    """The config as YAML that `load` reads back."""
    tree = _adapter().dump_python(config, mode="json")
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    # YAML reads these as line breaks and folds them, so they have to be written escaped.
    folded = any(mark in text for mark in ("\x85", "\u2028", "\u2029"))
    return yaml.safe_dump(tree, sort_keys=False) if folded else text


@functools.cache
def _adapter() -> "TypeAdapter[Config]":
    """What checks and converts settings; made when first used, which takes as long as importing half of raydd."""
    from pydantic import TypeAdapter

    return TypeAdapter(Config)


def _file(path: str | Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The settings file {path} cannot be read ({error}). Check the path.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}. Correct it.") from error
    if tree is None:
        return {}
    if not isinstance(tree, Mapping):
        raise ConfigError(f"{path} must hold sections such as `data:`, not a {type(tree).__name__}.")
    given: dict[str, Any] = {}
    sections = [section.name for section in dataclasses.fields(Config)]
    for section, values in tree.items():
        if section not in sections:
            raise ConfigError(f"{path}: there is no section {section!r}. {nearest(str(section), sections)}")
        if not isinstance(values, Mapping):
            raise ConfigError(f"{path}: the section {section} must hold settings, not {values!r}.")
        given.update({f"{section}.{key}": value for key, value in values.items()})
    return given


def _preset(name: str | None) -> Mapping[str, Any]:
    if name is None:
        return {}
    if name not in PRESETS:
        raise ConfigError(f"There is no preset {name!r}. {nearest(name, PRESETS)}")
    return PRESETS[name].settings


def _nearest_setting(name: str, known: Mapping[str, Any]) -> str:
    section = name.partition(".")[0]
    inside = [item for item in known if item.startswith(f"{section}.")]
    return nearest(name, inside or known)
