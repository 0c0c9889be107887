"""Builds a `Config` from files, presets and dotted names, and writes it back as YAML.

Later settings win: the defaults of `raydd.config`, then those of the method, the protocol, a preset, a YAML file, and
at last flags or a trial.
"""

import dataclasses
import functools
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

import yaml

from raydd.config import Config
from raydd.distill.loss_names import own_loss
from raydd.distill.methods import find_method
from raydd.errors import ConfigError, nearest, shown
from raydd.plain_files import read_file
from raydd.presets import PRESETS

if TYPE_CHECKING:
    from pydantic import TypeAdapter


# Settings that name files and folders, in which `~` and `$NAME` are replaced.
_PATH_SETTINGS = (
    *("data.root", "data.images", "encoders.image_weights", "encoders.text_weights", "evaluate.classes"),
    *("evaluate.unseen", "compare.data", "place.home", "place.store"),
)
# Settings that say where a data set is; empty by default.
_PLACE_OF_DATA = ("data.root", "data.name", "data.images", "data.image_column", "data.caption_column")
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})")

# Old names of settings. Error messages give the new name, and old records are read with it.
RENAMED: Mapping[str, str] = {"distill.space": "distill.images", "compare.protocol": "compare.choice"}

# Defaults of a protocol that differ from those of the protocol heads.
_PROTOCOL_DEFAULTS: Mapping[str, Mapping[str, Any]] = {"encoder": {"distill.images": "pixels"}}


def load(
    file: str | Path | None = None,
    preset: str | None = None,
    settings: Mapping[str, Any] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> Config:
    """Build a `Config` from a preset, a YAML file and dotted settings, on top of the chosen method's defaults.

    `defaults` are the defaults of a command. They win over those of the method; all other settings win over them.

    Raises:
        ConfigError: a file that is missing or not YAML, an unknown name, a value of the wrong type or out of range.
    """
    overrides = {**(defaults or {}), **given_settings(file, preset, settings)}
    method = find_method(str(overrides.get("distill.method", Config().distill.method)))
    protocol = _PROTOCOL_DEFAULTS.get(str(overrides.get("distill.protocol")), {})
    return with_settings(Config(), {**method.settings, **protocol, **overrides})


def given_settings(
    file: str | Path | None = None, preset: str | None = None, settings: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the dotted settings that a user gave: of a preset, of the file, and others; later ones win.

    Raises:
        ConfigError: an unknown preset, or a file that is missing or not YAML.
    """
    return {**_preset_settings(preset), **({} if file is None else _settings_in_file(file)), **(settings or {})}


def with_settings(config: Config, settings: Mapping[str, Any]) -> Config:
    """Return the config with some settings replaced, by dotted names: `{"distill.image_lr": 0.1}`.

    Raises:
        ConfigError: an unknown name, a value of the wrong type or out of range.
    """
    current = flatten(config)
    for name in settings:
        if name not in current:
            raise ConfigError(f"There is no setting {shown(name)}. {_nearest_setting(name, current)}")
    tree: dict[str, dict[str, Any]] = {}
    for name, value in {**current, **settings}.items():
        section, key = name.split(".")
        tree.setdefault(section, {})[key] = value
    for name, value in settings.items():
        _require_type(name, value)
    from pydantic import ValidationError

    try:
        validated = _validator().validate_python(tree)
    except ValidationError as error:
        first_error = error.errors()[0]
        name = ".".join(map(str, first_error["loc"][:2]))
        raise ConfigError(
            f"{name} is {shown(first_error['input'])}: {first_error['msg'].lower()}. Correct the value."
        ) from error
    except RecursionError as error:
        raise ConfigError("The settings are nested too deeply. A setting is a word, a number or a list.") from error
    for name, loss in (("experts.loss", validated.experts.loss), ("distill.loss", validated.distill.loss)):
        own_loss(loss, name)
    return expand_paths(validated)


def expand_paths(config: Config) -> Config:
    """Return the config with `~` and the environment variables `$NAME` and `${NAME}` in its paths replaced.

    Raises:
        ConfigError: a variable is not set, or is empty.
    """
    changed: dict[str, dict[str, Any]] = {}
    for name in _PATH_SETTINGS:
        section, key = name.split(".")
        value = getattr(getattr(config, section), key)
        expanded_value = (
            _expand(value, name) if isinstance(value, str) else tuple(_expand(path, name) for path in value)
        )
        if expanded_value != value:
            changed.setdefault(section, {})[key] = expanded_value
    sections = {name: dataclasses.replace(getattr(config, name), **values) for name, values in changed.items()}
    return dataclasses.replace(config, **sections) if sections else config


def _expand(path: str, setting: str) -> str:
    def value_of(match: re.Match[str]) -> str:
        variable = match[1] or match[2]
        value = os.environ.get(variable)
        if not value:
            raise ConfigError(
                f"{setting} is {path!r}, but the environment variable {variable} is not set. "
                f"Set it: `export {variable}=FOLDER`."
            )
        return value

    return os.path.expanduser(_VARIABLE.sub(value_of, path))  # noqa: PTH111 - a Path would break s3://


def with_file(config: Config, file: str | Path) -> Config:
    """Return the config with settings replaced by those of a YAML file.

    A file that names a reader, as `raydd init` writes it, describes a whole data set: it inherits no folder, name or
    column. How captions, faults and splits are treated is inherited, so that data sets of one table are treated alike.

    Raises:
        ConfigError: as for `load`.
    """
    settings = _settings_in_file(file)
    if "data.reader" in settings:
        settings = {**dict.fromkeys(_PLACE_OF_DATA, ""), **settings}
    return with_settings(config, settings)


def flatten(config: Config) -> dict[str, Any]:
    """Return all settings by their dotted names."""
    return {
        f"{section.name}.{item.name}": getattr(getattr(config, section.name), item.name)
        for section in dataclasses.fields(config)
        for item in dataclasses.fields(getattr(config, section.name))
    }


def to_yaml(config: Config) -> str:
    """Return the config as YAML that `load` can read."""
    tree = _validator().dump_python(config, mode="json")
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
    # YAML reads these characters as line breaks and folds them, so they have to be escaped.
    needs_escapes = any(character in text for character in ("\x85", "\u2028", "\u2029"))
    return yaml.safe_dump(tree, sort_keys=False) if needs_escapes else text


@functools.cache
def _validator() -> "TypeAdapter[Config]":
    """Return pydantic's validator of settings; making it takes as long as importing half of raydd."""
    from pydantic import TypeAdapter

    return TypeAdapter(Config)


def read_yaml(path: str | Path, kind: str = "settings file") -> Any:
    """Return the content of a YAML file. No Python object is constructed from it, and no code is run.

    Args:
        path: path of the file.
        kind: kind of file, for messages.

    Raises:
        ConfigError: the file is missing, is not YAML, or has a key twice.
    """
    try:
        return yaml.load(_read_text(Path(path)), Loader=_UniqueKeyLoader)
    except (OSError, UnicodeDecodeError, ValueError) as error:
        raise ConfigError(f"The {kind} {path or repr(path)} cannot be read ({error}). Check the path.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}. Correct it.") from error
    except RecursionError as error:
        raise ConfigError(f"{path} is nested too deeply. It must hold sections, and each section settings.") from error


def _settings_in_file(path: str | Path) -> dict[str, Any]:
    tree = read_yaml(path)
    if tree is None:
        return {}
    if not isinstance(tree, Mapping):
        raise ConfigError(f"{path} must hold sections such as `data:`, not a {type(tree).__name__}.")
    settings: dict[str, Any] = {}
    sections = [section.name for section in dataclasses.fields(Config)]
    for section, values in tree.items():
        if section not in sections:
            raise ConfigError(f"{path}: there is no section {shown(section)}. {nearest(str(section), sections)}")
        if not isinstance(values, Mapping):
            raise ConfigError(f"{path}: the section {section} must hold settings, not {shown(values)}.")
        settings.update({f"{section}.{key}": value for key, value in values.items()})
    return settings


_MOST_BYTES = 2**20  # of a settings file


def _read_text(path: Path) -> str:
    """Return the content of a settings file.

    Raises:
        OSError: it is not a regular file, or is far larger than a settings file.
        UnicodeDecodeError: it is not UTF-8.
    """
    return read_file(path, _MOST_BYTES).decode("utf-8")


class _UniqueKeyLoader(yaml.SafeLoader):
    """A YAML loader that refuses a key that is there twice; otherwise the last one would win silently."""


def _construct_mapping(loader: _UniqueKeyLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen_keys: set[Any] = set()
    for key, _ in node.value:
        key_text = key.value if isinstance(key, yaml.ScalarNode) else ""
        if key_text and key_text in seen_keys:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key_text!r} is there twice", key.start_mark)
        seen_keys.add(key_text)
    loader.flatten_mapping(node)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=True)


def _construct_int(loader: _UniqueKeyLoader, node: yaml.ScalarNode) -> int:
    if _AMBIGUOUS_INT.match(node.value):
        raise yaml.constructor.ConstructorError(
            None, None, f"{node.value} would be read in base 8 or 60: write it in decimal or in quotes", node.start_mark
        )
    return yaml.SafeLoader.construct_yaml_int(loader, node)


_AMBIGUOUS_INT = re.compile(r"[-+]?(0[0-9_]|.*:)")  # YAML 1.1 reads 010 as 8, and 1:30 as 90

_UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)
_UniqueKeyLoader.add_constructor("tag:yaml.org,2002:int", _construct_int)


@functools.cache
def _setting_types() -> Mapping[str, set[type]]:
    """Return the types of each setting by its dotted name, including the types inside a tuple or a choice."""
    kinds = {}
    for section in dataclasses.fields(Config):
        kind = get_type_hints(Config)[section.name]
        hints = get_type_hints(kind)
        kinds |= {f"{section.name}.{item.name}": set(_types_in(hints[item.name])) for item in dataclasses.fields(kind)}
    return kinds


def _types_in(hint: Any) -> Iterator[type]:
    if get_origin(hint) is Literal:
        yield from map(type, get_args(hint))
    elif arguments := get_args(hint):
        for argument in arguments:
            yield from _types_in(argument)
    elif isinstance(hint, type):
        yield hint


def _require_type(name: str, value: Any) -> None:
    """Refuse true or false for a number or a text, and anything else for true or false: pydantic would convert it.

    Raises:
        ConfigError: a value is refused; the message names the setting.
    """
    kinds = _setting_types()[name]
    for element in value if isinstance(value, list | tuple) else [value]:
        if isinstance(element, bool) and bool not in kinds:
            expected = "a number" if kinds & {int, float} else "text"
            raise ConfigError(f"{name} is {str(element).lower()}, but must be {expected}.")
        if bool in kinds and not isinstance(element, bool):
            raise ConfigError(f"{name} is {shown(element)}, but must be true or false, without quotes.")


def _preset_settings(name: str | None) -> Mapping[str, Any]:
    if name is None:
        return {}
    if name not in PRESETS:
        raise ConfigError(f"There is no preset {name!r}. {nearest(name, PRESETS)}")
    return PRESETS[name].settings


def _nearest_setting(name: str, known: Mapping[str, Any]) -> str:
    if name in RENAMED:
        return f"It is now called {RENAMED[name]}, with the same values."
    section = name.partition(".")[0]
    section_settings = [setting for setting in known if setting.startswith(f"{section}.")]
    return nearest(name, section_settings or known)
