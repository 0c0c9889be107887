"""Shell completion at the Tab key: commands, options, settings, and the known values of a setting.

The shell scripts are short: they call `raydd --complete WORD ...` for the candidates of the last word, so they need no
update when raydd changes.
"""

import dataclasses
import importlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args, get_origin, get_type_hints

from raydd.cli_help import NO_OPTIONS, SECTIONS, TOPICS, choices
from raydd.config import Config, Selection
from raydd.distill.loss_names import LOSS_NAMES

# Names of the registries whose import loads torch; a test checks that the lists are complete.
NAMES: Mapping[str, Sequence[str]] = {
    "data.reader": (
        *("stamps", "csv", "txt", "flat-json", "karpathy", "coco", "parquet", "webdataset", "arrow", "hf:"),
    ),
    "encoders.image": ("efficientnet-lite0", "nfnet", "timm:", "open_clip:", "joined:"),
    "encoders.text": ("minilm", "bert", "hf:", "open_clip:"),
    "distill.loss": LOSS_NAMES,
    "experts.loss": LOSS_NAMES,
    "place.device": ("auto", "cpu", "cuda"),
    "place.ray": ("local", "auto"),
}

SCRIPTS = {
    "bash": """\
_raydd() {
  local word=${COMP_WORDS[COMP_CWORD]}
  COMPREPLY=($(compgen -W "$("${COMP_WORDS[0]}" --complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)" -- "$word"))
}
complete -o default -o bashdefault -F _raydd raydd
""",
    "zsh": """\
#compdef raydd
local -a found
found=(${(f)"$("${words[1]}" --complete "${(@)words[2,CURRENT]}" 2>/dev/null)"})
(( $#found )) && compadd -a found || _files
""",
    "fish": """\
function __raydd
    set -l words (commandline -opc) (commandline -ct)
    $words[1] --complete $words[2..-1] 2>/dev/null
end
complete -c raydd -a '(__raydd)'
""",
}


def candidates(words: Sequence[str], commands: Iterable[str]) -> list[str]:
    """Return the candidates for the last word of a command line; none if a file is expected.

    Args:
        words: the command line after `raydd`, as far as it is typed. The last word may be empty.
        commands: all commands.
    """
    *before, last = words or [""]
    if not before:
        return _with_prefix(last, [*commands, "help", "--help", "--version", "--completion"])
    if before[0] == "help":
        return _with_prefix(last, commands if len(before) == 1 else TOPICS)
    if before[0] == "--completion":
        return _with_prefix(last, SCRIPTS)
    if before[0] not in commands:
        return []
    kind = importlib.import_module(f"raydd.commands.{before[0]}").Options
    if last.startswith("-"):
        return _with_prefix(last, _flags(kind))
    flag = next((word for word in reversed(before) if word.startswith("--")), "")
    return _with_prefix(last, _known_values(flag.removeprefix("--").replace("-", "_"), kind))


def _flags(kind: type[Any]) -> list[str]:
    own_options = {item.name: hint for item, hint in _fields_with_types(kind) if item.name not in NO_OPTIONS}
    settings = {
        f"{section}.{item.name}": hint
        for section in SECTIONS
        for item, hint in _fields_with_types(type(getattr(Config(), section)))
    }
    flags = ["--help", "--help-all"]
    for name, hint in {**own_options, **settings}.items():
        flag = _option_name(hint) or name.replace("_", "-")
        flags.append(f"--{flag}")
        if hint is bool:
            head, _, tail = flag.rpartition(".")
            flags.append(f"--{head}.no-{tail}" if head else f"--no-{tail}")
    return flags


def _known_values(name: str, kind: type[Any]) -> list[str]:
    if name == "help":
        return list(TOPICS)
    if name == "preset":
        from raydd.presets import PRESETS

        return list(PRESETS)
    if name in ("distill.method", "compare.methods"):
        from raydd.distill.methods import METHODS

        return [*METHODS, *get_args(Selection), "full"] if name == "compare.methods" else list(METHODS)
    if name == "sweep.space":
        from search_spaces import spaces

        return list(spaces())
    if name in NAMES:
        return list(NAMES[name])
    section, _, key = name.partition(".")
    owner = type(getattr(Config(), section)) if key and section in SECTIONS else kind
    hints = {item.name: hint for item, hint in _fields_with_types(owner)}
    return list(choices(hints.get(key or name)))


def _fields_with_types(kind: type[Any]) -> list[tuple[dataclasses.Field[Any], Any]]:
    hints = get_type_hints(kind, include_extras=True)
    return [(item, hints[item.name]) for item in dataclasses.fields(kind)]


def _option_name(hint: Any) -> str:
    if get_origin(hint) is None:
        return ""
    return next((part.name for part in getattr(hint, "__metadata__", ()) if getattr(part, "name", None)), "")


def _with_prefix(prefix: str, words: Iterable[str]) -> list[str]:
    return [word for word in words if word.startswith(prefix)]
