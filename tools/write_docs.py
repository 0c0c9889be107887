"""Write the generated pages of docs/: settings, commands, names, the settings of each method, and the leaderboard.

    python tools/write_docs.py

The leaderboard is made from docs/leaderboard.yaml, the other pages from the code. A test checks that they are current.
"""

import dataclasses
import functools
import inspect
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

from leaderboard_rows import read_rows

from raydd import config as settings
from raydd.cli import COMMANDS
from raydd.cli_help import choices, choices_label, docs_of_fields
from raydd.data.encoders import IMAGE_ENCODERS, TEXT_ENCODERS
from raydd.data.readers import READERS
from raydd.distill.methods import METHODS
from raydd.evaluate.retrieval import RECALLS
from raydd.export.cards import plain
from raydd.export.leaderboard import Row
from raydd.outside import outside_module
from raydd.presets import PRESETS
from raydd.terminal.text import count_of
from raydd.tuning.samplers import SAMPLERS
from search_spaces import spaces

DOCS = Path(__file__).parents[1] / "docs"
BEGIN, END = "<!-- generated -->", "<!-- end -->"


def pages() -> dict[str, str]:
    """Return the content of each generated page, by its path below docs/."""
    methods = {f"methods/{name}.md": _method_page(name) for name in METHODS}
    return {
        "reference/settings.md": settings_page(),
        "reference/commands.md": commands_page(),
        "reference/names.md": names_page(),
        "leaderboard.md": leaderboard_page(),
        **methods,
    }


def settings_page() -> str:
    """Return the page of all settings, with one table for each section."""
    lines = [
        "# Settings",
        "",
        "Settings have the same names in files, flags, search spaces, records and MLflow. In a file: `distill: {pairs: "
        "200}`; as a flag: `--distill.pairs 200`. If a setting has several values, the last one wins, in the order "
        "defaults, method, protocol, preset, file, flags. `raydd demo` has defaults of its own.",
        "",
        "- Flags may be written with `-` or `_`: `--distill.image-lr`, `--distill.image_lr`. A boolean setting is "
        "`true` or `false` in a file, and `--distill.fit-rates` or `--distill.no-fit-rates` as a flag.",
        "- The tables show the defaults of the method plain. `--print-config` shows the settings that your command "
        "would use.",
        "- r_mean is the mean of recall at 1, 5 and 10, from images to texts and from texts to images, in percent.",
        '- "As published" means as in the code published with a method\'s paper.',
    ]
    for section in dataclasses.fields(settings.Config):
        kind: Any = section.default_factory
        lines += [
            "",
            f"## {section.name}",
            "",
            inspect.getdoc(kind) or "",
            "",
            '<div class="settings" markdown>',
            "",
            "| setting | default | meaning |",
            "|---|---|---|",
        ]
        texts = docs_of_fields(kind)
        for item in dataclasses.fields(kind):
            default = getattr(kind(), item.name)
            text = texts[item.name].replace("|", "\\|")
            lines.append(
                f"| `{section.name}.{item.name}` | `{_format_default(default)}` | {text}{_choices_note(item.type)} |"
            )
        lines += ["", "</div>"]
    return "\n".join(lines) + "\n"


def commands_page() -> str:
    """Return the page of all commands and of shell completion."""
    lines = ["# Commands", ""]
    lines += [
        "`raydd COMMAND --help` (or `raydd help COMMAND`) shows an example and the settings that matter for a command. "
        "`--help SECTION` shows one section of the settings, `--help-all` shows all settings.",
        "",
    ]
    lines += ["| command | |", "|---|---|", *(f"| `raydd {name}` | {text} |" for name, text in COMMANDS.items())]
    return "\n".join(lines) + "\n" + _COMPLETION


def names_page() -> str:
    """Return the page of all readers, encoders, methods, samplers, search spaces and presets, by name."""
    kinds: dict[str, Mapping[str, str]] = {
        "data.reader": {name: _first_line(inspect.getmodule(reader)) for name, reader in READERS.items()},
        "encoders.image": {_with_ellipsis(name): _first_line(encoder.load) for name, encoder in IMAGE_ENCODERS.items()},
        "encoders.text": {_with_ellipsis(name): _first_line(encoder.load) for name, encoder in TEXT_ENCODERS.items()},
        "distill.method": {name: _first_line(_module_of(name)) for name in METHODS},
        "sweep.sampler": {name: _first_line(sampler) for name, sampler in SAMPLERS.items()},
        "sweep.space": {name: _first_line(outside_module(space, "sweep.space")) for name, space in spaces().items()},
        "--preset": {name: preset.description for name, preset in PRESETS.items()},
    }
    lines = ["# Names", "", "These names are built into raydd. To use your own code, write `FILE.py:NAME` or"]
    lines[-1] += " `module:NAME`: see [Add to it](../extend/index.md)."
    for setting, names in kinds.items():
        rows = (f"| `{name}` | {text} |" for name, text in names.items())
        lines += ["", f"## {setting}", "", "| name | |", "|---|---|", *rows]
    return "\n".join(lines) + "\n"


def leaderboard_page() -> str:
    """Return the page of the leaderboard, with one table for each group of comparable rows.

    Rows are sorted by number of pairs, then by r_mean, the best first.
    """
    tables: dict[str, list[Row]] = {}
    for row in read_rows(DOCS / "leaderboard.yaml"):
        title = f"{row.data}, {row.split}: {row.image_encoder} and {row.text_encoder}, protocol {row.protocol}"
        tables.setdefault(title, []).append(row)
    lines = [_LEADERBOARD, '<div class="leaderboard" markdown>', ""]
    for title, rows in sorted(tables.items()):
        lines += [
            f"## {plain(title)}",
            "",
            f"| set | pairs | kB | r_mean | {' | '.join(RECALLS)} | ± over |",
            f"|---|---:|---:|---:|{'---:|' * len(RECALLS)}---:|",
            *map(_leaderboard_row, sorted(rows, key=lambda row: (row.pairs, -_r_mean(row)[0]))),
            "",
        ]
    return "\n".join([*lines, "</div>", "", _ADD_A_ROW])


def _r_mean(row: Row) -> tuple[float, float]:
    score = row.scores["r_mean"]
    assert score is not None  # read_rows refuses such rows
    return score


def _leaderboard_row(row: Row) -> str:
    recalls = (row.scores[metric] for metric in RECALLS)
    mean, deviation = _r_mean(row)
    cells = [
        _link_to_set(row.set, row.source),
        str(row.pairs),
        "" if row.kB is None else f"{row.kB:.0f}",
        f"{mean:.1f} ± {deviation:.1f}" + (" †" if row.choice == "best-on-split" else ""),
        *("" if score is None else f"{score[0]:.1f}" for score in recalls),
        count_of(row.sets, "set") if row.sets > 1 else count_of(row.seeds, "student"),
    ]
    return f"| {' | '.join(cells)} |"


def _link_to_set(name: str, source: str) -> str:
    """Return a set's name as a link to its source, or with the source as text if it is not a web page."""
    if source.startswith("docs/"):
        return f"[{plain(name)}]({source.removeprefix('docs/')})"
    return f"[{plain(name)}](<{source}>)" if re.fullmatch(r"https://[^\s<>|]+", source) else plain(f"{name} ({source})")


def _first_line(documented: Any) -> str:
    """Return the first paragraph of a docstring, on one line."""
    if isinstance(documented, functools.partial):
        documented = documented.func
    return " ".join((inspect.getdoc(documented) or "").partition("\n\n")[0].split())


def _with_ellipsis(name: str) -> str:
    return f"{name}…" if name.endswith(":") else name


_LEADERBOARD = """\
# Leaderboard

This page compares synthetic sets made by any code. `raydd evaluate` scores each set: it trains students on the set
alone and measures retrieval on val or test images. Students have the published recipe (weight decay
0.0005), except where a set's name says otherwise. All rows of one table have the same data, encoders and protocol. The
protocol says what students train: both projection heads (heads), or the image encoder and a text head (encoder).

- Scores are in percent. r_mean is the mean ± the standard deviation: over the students of one set, or over the means of
  several sets that were made with the same settings from other start pairs. The last column says which.
- kB is the size of the data that a student trains on.
- † marks students whose epoch was chosen on the scored split, as published tables do.
- A set's name links to its source. Empty cells were not recorded.
"""

_ADD_A_ROW = """\
## Add a row

1. [Describe your set](outside.md), or export one of raydd's with `raydd export --to hub`. Score it:
   `raydd evaluate --outside set.yaml --config flickr8k.yaml --students.weight-decay 0.0005 --json scores.json`
2. Put the set and its description in one place where others can load them, and write the address of the set as `source`
   into the description.
3. Add the entry `row` of `scores.json` to `docs/leaderboard.yaml`, run `python tools/write_docs.py`, and open a pull
   request with the rows and the page, so that a reviewer can run the same command.
"""

_COMPLETION = """
## Completion

The Tab key completes commands, settings, and the names of methods, presets, readers and search spaces:

```sh
# bash, with the package bash-completion
mkdir -p ~/.local/share/bash-completion/completions
raydd --completion bash > ~/.local/share/bash-completion/completions/raydd

# zsh; ~/.zshrc has: fpath=(~/.zfunc $fpath); autoload -U compinit; compinit
mkdir -p ~/.zfunc
raydd --completion zsh > ~/.zfunc/_raydd

# fish
raydd --completion fish > ~/.config/fish/completions/raydd.fish
```
"""


def _module_of(method: str) -> ModuleType:
    return sys.modules[f"raydd.distill.methods.{method.replace('-', '_')}"]


def _method_page(name: str) -> str:
    method, path = METHODS[name], DOCS / "methods" / f"{name}.md"
    text = path.read_text(encoding="utf-8") if path.is_file() else f"# {name}\n\n"
    differences = (_module_of(name).__doc__ or "").split("Differences from the paper:")[-1].strip()
    parts = [
        f"Paper: {method.paper}.",
        "## Settings",
        "`distill.method` sets:",
        _settings_table(method.settings),
    ]
    if method.published:
        parts += ["Published settings, which `distill.method` does not set:", _settings_table(method.published)]
    presets = [f"`{key}`: {preset.description}" for key, preset in PRESETS.items() if preset.method == name]
    if presets:
        parts += ["## Presets", "\n".join(f"- {line}" for line in presets)]
    parts += ["## Differences from the paper", differences]
    before, _, rest = text.partition(BEGIN)
    return before + BEGIN + "\n\n" + "\n\n".join(parts) + "\n\n" + END + rest.partition(END)[2]


def _settings_table(values: Mapping[str, Any]) -> str:
    rows = [f"| `{name}` | `{_format_value(value)}` |" for name, value in values.items()]
    return "\n".join(["| setting | value |", "|---|---|", *rows])


def _choices_note(kind: Any) -> str:
    words = () if float in get_args(kind) else choices(kind)  # a number or a word; the text lists the words
    return f" {choices_label(kind)} {', '.join(f'`{word}`' for word in words)}." if words else ""


def _format_default(value: Any) -> str:
    return ("off", "on")[value] if isinstance(value, bool) else _format_value(value)


def _format_value(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value))
    return '""' if value == "" else str(value)


if __name__ == "__main__":
    for name, content in pages().items():
        (DOCS / name).write_text(content, encoding="utf-8")
        print(f"docs/{name}")
