"""The text of `raydd COMMAND --help`: the command's own options, the settings that matter for it, and an example.

`--help SECTION` prints one section of the settings, `--help preset` the presets, `--help-all` everything. Values in
brackets are the ones that the command would use, with the settings of its file, preset and method.
"""

import ast
import dataclasses
import inspect
import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import tyro

from raydd.config import Config
from raydd.errors import ConfigError, nearest
from raydd.presets import PRESETS

_DATA = ("data.reader", "data.root", "data.name")
_ENCODERS = ("encoders.image", "encoders.text")
_PLACE = ("place.home", "place.store")

MATTER: Mapping[str, Sequence[str]] = {
    "demo": (
        *("distill.pairs", "distill.steps", "distill.method", "pixels.steps", "experts.count"),
        *("sweep.trials", "sweep.finalists", "evaluate.seeds", "data.reader", "place.home"),
    ),
    "init": (
        *("data.reader", "data.name", "data.images", "data.image_column", "data.caption_column"),
        *("data.val_share", "data.seed", "data.bad_pairs"),
    ),
    "run": (
        *(*_DATA, *_ENCODERS),
        *("distill.method", "distill.pairs", "distill.images", "distill.steps", "evaluate.split"),
    ),
    "features": (
        *_DATA,
        "data.images",
        *_ENCODERS,
        "features.views",
        "features.augment",
        "place.store",
        "place.device",
    ),
    "experts": (
        *(*_DATA, *_ENCODERS),
        *("experts.count", "experts.epochs", "experts.lr", "experts.batch_size", "place.device"),
    ),
    "distill": (
        *("data.reader", "data.root", "distill.method", "distill.pairs", "distill.images", "distill.steps"),
        *("distill.student_steps", "distill.target_epochs", "distill.image_lr", "distill.seed"),
    ),
    "evaluate": (
        *("data.root", "evaluate.split", "evaluate.seeds", "evaluate.baselines", "evaluate.choice"),
        *("evaluate.encoders", "evaluate.classes", "evaluate.unseen", "students.epochs", "place.device"),
    ),
    "sweep": (
        *("sweep.name", "sweep.space", "sweep.trials", "sweep.hours", "sweep.at_once", "sweep.gpus"),
        *("sweep.finalists", "sweep.pruner", "distill.images", "place.ray"),
    ),
    "report": ("sweep.name", "evaluate.split", *_PLACE, "place.study", "place.mlflow"),
    "compare": (
        *("compare.name", "compare.methods", "compare.pairs", "compare.sets", "compare.data", "compare.trials"),
        *("distill.images", "distill.steps", "evaluate.seeds", "place.ray"),
    ),
    "export": ("data.root", *_PLACE, "place.device"),
    "search": ("students.epochs", *_PLACE, "place.device"),
    "watch": ("sweep.name", "place.home", "place.study", "place.mlflow"),
    "board": ("sweep.name", "place.home", "place.study", "place.mlflow"),
    "verify": _PLACE,
    "doctor": (
        *(*_DATA, *_ENCODERS),
        *("distill.pairs", "sweep.space", "sweep.gpus", "place.device", "place.home"),
    ),
}
"""The settings that `raydd COMMAND --help` shows for each command, at most ten."""

EXAMPLES: Mapping[str, str] = {
    "demo": "raydd demo",
    "init": "raydd init ~/flickr8k --out flickr8k.yaml",
    "run": "raydd run --config flickr8k.yaml --distill.pairs 200 --json out.json",
    "features": "raydd features --config coco.yaml --workers 8",
    "experts": "raydd experts --config flickr8k.yaml --experts.count 20",
    "distill": "raydd distill --config flickr8k.yaml --distill.images features",
    "evaluate": "raydd evaluate --set FOLDER --evaluate.encoders efficientnet-lite1",
    "sweep": "raydd sweep --config flickr8k.yaml --sweep.trials 24 --dry-run",
    "report": "raydd report                    # on the latest sweep",
    "compare": "raydd compare --config flickr8k.yaml --dry-run",
    "export": "raydd export --set FOLDER --to hf dataset",
    "search": 'raydd search "two dogs on a beach" --set FOLDER --in ~/Pictures',
    "watch": "raydd watch                     # the latest sweep",
    "board": "raydd board                     # the latest sweep",
    "verify": "raydd verify --delete",
    "doctor": "raydd doctor --config flickr8k.yaml",
}

NO_OPTIONS = ("settings", "given")  # fields of `Options` that are not options of the command
SECTIONS = tuple(section.name for section in dataclasses.fields(Config))
TOPICS = (*SECTIONS, "preset")  # words that may follow --help
_FLAG_WIDTH = 30  # width of the column of flags, in characters
_MOST_WIDTH = 110
_SHORT_LINES = 2  # lines per setting in the short help


def command_help(command: str, kind: type[Any], summary: str, settings: Config) -> str:
    """Return the short help of a command: under 50 lines on a terminal of 80 columns.

    Args:
        command: name of the command.
        kind: its `Options`.
        summary: what it does, in one line.
        settings: the settings that it would use.
    """
    positional = " ".join(name.upper() for name in _positional_names(kind))
    usage = f"usage: raydd {command} {positional}{' ' if positional else ''}[OPTION ...] [--SECTION.SETTING VALUE ...]"
    lines = [usage, "", *_wrap(summary), "", "Options:"]
    for flag, text in _own_options(kind):
        lines += _row(flag, text, "")
    lines += ["", "Settings that matter here:"]
    for name in MATTER[command]:
        lines += _setting_rows(name, settings, most_lines=_SHORT_LINES)
    return "\n".join(
        [
            *(*lines, "", "Example:", f"  {EXAMPLES[command]}", ""),
            *_wrap(
                f"Texts ending in ... are cut. `raydd {command} --help SECTION` shows one section of the settings in "
                f"full, --help-all shows everything. Sections: {', '.join(SECTIONS)}."
            ),
        ]
    )


def section_help(name: str, settings: Config) -> str:
    """Return the help of all settings of one section, or of all presets.

    Raises:
        ConfigError: there is no such section.
    """
    if name not in TOPICS:
        raise ConfigError(f"There is no section {name!r}. {nearest(name, TOPICS)}")
    if name == "preset":
        lines = ["preset: settings by name. The file and the flags win over a preset.", ""]
        for preset_name, preset in PRESETS.items():
            lines += _row(preset_name, preset.description, "")
        return "\n".join(lines)
    section = getattr(settings, name)
    lines = [*_wrap(f"{name}: {inspect.getdoc(section)}"), ""]
    for item in dataclasses.fields(section):
        lines += _setting_rows(f"{name}.{item.name}", settings)
    return "\n".join(lines)


def full_help(command: str, kind: type[Any], description: str, settings: Config) -> str:
    """Return the help of all options and all settings of a command."""
    lines = [
        f"usage: raydd {command} [OPTION ...] [--SECTION.SETTING VALUE ...]",
        "",
        description.strip(),
        "",
        "Options:",
    ]
    for flag, text in _own_options(kind):
        lines += _row(flag, text, "")
    return "\n\n".join(["\n".join(lines), *(section_help(name, settings) for name in SECTIONS)])


def docs_of_fields(kind: type[Any]) -> dict[str, str]:
    """Return the string below each field of a dataclass, inherited fields first."""
    docs: dict[str, str] = {}
    for parent in reversed(kind.__mro__[:-1]):
        (body,) = (
            node
            for node in ast.parse(textwrap.dedent(inspect.getsource(parent))).body
            if isinstance(node, ast.ClassDef)
        )
        for field, docstring in zip(body.body, body.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(docstring, ast.Expr)
            ):
                docs[field.target.id] = " ".join(inspect.cleandoc(ast.literal_eval(docstring.value)).split())
    return docs


def choices(kind: Any) -> tuple[str, ...]:
    """Return the words that a setting accepts, or accepts in its list; none if it accepts any value."""
    if get_origin(kind) is Literal:
        return tuple(map(str, get_args(kind)))
    return tuple(word for inner in get_args(kind) for word in choices(inner))


def choices_label(kind: Any) -> str:
    """Return what to write before a setting's words: `One of`, or `Any of` if the setting is a list."""
    return "Any of" if get_origin(kind) is tuple else "One of"


def _own_options(kind: type[Any]) -> Iterator[tuple[str, str]]:
    docs, hints = docs_of_fields(kind), get_type_hints(kind, include_extras=True)
    positional = _positional_names(kind)
    fields = [item for item in dataclasses.fields(kind) if item.name not in NO_OPTIONS]
    inherited = {item.name for parent in kind.__mro__[1:-1] for item in dataclasses.fields(parent)}
    for item in sorted(fields, key=lambda item: item.name in inherited):  # the command's own options first
        hint = hints[item.name]
        tyro_arguments = [part for part in getattr(hint, "__metadata__", ()) if hasattr(part, "metavar")]
        bare_type = get_args(hint)[0] if get_origin(hint) is Annotated else hint
        if item.name in positional:
            flag = item.name.upper()
        else:
            name = next((part.name for part in tyro_arguments if part.name), item.name).replace("_", "-")
            placeholder = next((part.metavar for part in tyro_arguments if part.metavar), _placeholder(bare_type))
            flag = f"--{name} {placeholder}".rstrip()
        words = choices(bare_type)
        text = docs[item.name]
        yield (
            flag,
            text if all(word in text for word in words) else f"{text} {choices_label(bare_type)} {', '.join(words)}.",
        )


def _positional_names(kind: type[Any]) -> list[str]:
    hints = get_type_hints(kind, include_extras=True)
    metadata = {name: getattr(hint, "__metadata__", ()) for name, hint in hints.items()}
    positional: Any = tyro.conf.Positional[int]
    return [name for name, markers in metadata.items() if positional.__metadata__[0] in markers]


def _setting_rows(name: str, settings: Config, most_lines: int | None = None) -> list[str]:
    section, key = name.split(".")
    kind, value = type(getattr(settings, section)), getattr(getattr(settings, section), key)
    hint = get_type_hints(kind)[key]
    text, words = docs_of_fields(kind)[key], choices(hint)
    if most_lines:
        head = text.partition(":")[0]
        text = head if words and head != text and not any(word in head for word in words) else text.partition(". ")[0]
        text = text.rstrip(".") + "."
    if not all(word in text for word in words):
        text = f"{text} {choices_label(hint)} {', '.join(words)}."
    flag = f"--{name.replace('_', '-')}"
    most_lines = most_lines and most_lines + bool(words)  # one more line for the words
    if isinstance(value, bool):
        return _row(flag, text, f"on; --{section}.no-{key.replace('_', '-')} for off" if value else "off", most_lines)
    shown = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return _row(f"{flag} {_placeholder(hint)}", text, shown, most_lines)


def _placeholder(kind: Any) -> str:
    """Return the placeholder of an option's value: N, X (float), PATH, WORD or TEXT; empty for a switch."""
    inner = [part for part in get_args(kind) if part not in (NoneType, Ellipsis)]
    if get_origin(kind) is tuple:
        return f"{_placeholder(inner[0])} ..."
    if inner and get_origin(kind) is not Literal:
        return _placeholder(inner[0])
    return {bool: "", int: "N", float: "X", Path: "PATH"}.get(kind, "WORD" if get_origin(kind) is Literal else "TEXT")


def _row(flag: str, text: str, default: str, most_lines: int | None = None) -> list[str]:
    """Return an option in two columns, in at most `most_lines` lines; the default is never cut."""
    column_width, default_text = _text_width() - _FLAG_WIDTH - 2, f" [{default}]" if default else ""
    right = textwrap.wrap(text + default_text, column_width, break_on_hyphens=False)
    words = text.split()
    while most_lines and len(right) > most_lines and words:
        words.pop()
        right = textwrap.wrap(
            f"{' '.join(words).rstrip(',;:')} ...{default_text}", column_width, break_on_hyphens=False
        )
    left = f"  {flag}"
    if len(left) > _FLAG_WIDTH:
        return [left, *(" " * (_FLAG_WIDTH + 2) + line for line in right)]
    return [f"{left if index == 0 else '':<{_FLAG_WIDTH + 2}}{line}" for index, line in enumerate(right)]


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(text, _text_width(), break_on_hyphens=False)


def _text_width() -> int:
    return min(_MOST_WIDTH, shutil.get_terminal_size().columns)
