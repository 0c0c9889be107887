"""Inspect a folder of images and captions: detect its layout, count pairs and faults, write a file of settings."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from raydd import cli
from raydd.errors import ConfigError
from raydd.plain_files import expanded, require_writable
from raydd.terminal.console import open_console

if TYPE_CHECKING:
    from raydd.config import Config
    from raydd.data.survey import Survey


@dataclass(frozen=True, kw_only=True)
class Options(cli.Options):
    """The folder, and the file to write."""

    folder: tyro.conf.Positional[Path] = field(default=Path())
    """Folder of the data set. If left out: `data.root`, else the current folder."""
    out: Path = Path("raydd.yaml")
    """File of settings to write [raydd.yaml]."""
    overwrite: bool = False
    """Replace the file if it exists."""


def main(options: Options) -> int:
    """Inspect the folder, print the result, and write the file."""
    from rich.table import Table

    from raydd.data.checking import summarise
    from raydd.data.layouts import find_layouts
    from raydd.data.survey import survey

    if options.out.exists() and not options.overwrite:
        raise ConfigError(f"{options.out} already exists. Give another --out, or --overwrite.")
    require_writable(options.out, "--out")
    configured_root = options.settings.data.root if options.folder == Path() else ""
    root = expanded(configured_root or options.folder, "the folder").absolute()
    console = open_console()
    layouts = find_layouts(replace(options.settings.data, root=str(root)))
    first, *alternatives = layouts
    console.print(
        f"{options.folder}: {_describe_layout(first.data.reader, first.data.name)}, since {first.why}", soft_wrap=True
    )
    for layout in alternatives:
        flags = " ".join(
            f"--data.{key} {getattr(layout.data, key)}" for key in ("reader", "name") if getattr(layout.data, key)
        )
        console.print(
            f"also fits: {_describe_layout(layout.data.reader, layout.data.name)}, since {layout.why} ({flags})",
            soft_wrap=True,
        )
    result = survey(first.data)
    text = _settings_yaml(replace(options.settings, data=result.data), options.folder, result)
    table = Table(box=None, pad_edge=False)
    table.add_column("split")
    table.add_column("images", justify="right")
    table.add_column("captions", justify="right")
    for split, (images, captions) in result.splits.items():
        table.add_row(split, f"{images:,}", f"{captions:,}")
    console.print(table)
    if result.data.images != options.settings.data.images:
        console.print(f"images: in {result.data.images}", soft_wrap=True)
    for line in (*summarise(result.problems), *_survey_notes(result, options.settings)):
        console.print(line, soft_wrap=True)
    if not result.splits["train"][0]:
        console.print("There are no training images, so no file is written.")
        return 1
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("w" if options.overwrite else "x", encoding="utf-8") as file:
        file.write(text)
    console.print(f"{options.out} is written. Next:", soft_wrap=True)
    for command in ("doctor", "run"):
        console.print(f"  raydd {command} --config {options.out}", soft_wrap=True)
    return 0


def _describe_layout(reader: str, name: str) -> str:
    return f"{reader} ({name})" if name else reader


def _survey_notes(result: "Survey", config: "Config") -> list[str]:
    """Return notes on missing splits, which a run takes from train, on images not opened, and on too many pairs."""
    images = {split: count for split, (count, _) in result.splits.items()}
    missing = [split for split in ("val", "test") if not images[split]]
    lines = (
        [f"no {' and no '.join(missing)} split: cut from train, {result.data.val_share:.0%} each"] if missing else []
    )
    total_images = sum(images.values())
    if result.opened < total_images:
        lines.append(f"{result.opened:,} of {total_images:,} images were opened; `raydd doctor` opens all")
    if images["train"] < config.distill.pairs:
        lines.append(
            f"distill.pairs is {config.distill.pairs}, more than the number of train images: lower it for `raydd run`"
        )
    return lines


def _settings_yaml(config: "Config", folder: Path, result: "Survey") -> str:
    """Return the settings that differ from their defaults as YAML, which `load` reads back unchanged.

    Raises:
        ConfigError: a path contains text that settings read as an environment variable.
    """
    import yaml

    from raydd.config import Config
    from raydd.settings import flatten, with_settings
    from raydd.terminal.console import visible

    defaults = flatten(Config())
    changed = {name: value for name, value in flatten(config).items() if value != defaults[name]}
    try:
        round_trips = with_settings(Config(), changed) == config
    except ConfigError:
        round_trips = False
    if not round_trips:
        raise ConfigError(f"{config.data.root} contains a $, which settings read as a variable. Rename the folder.")
    tree: dict[str, dict[str, object]] = {}
    for name, value in changed.items():
        section, key = name.split(".")
        tree.setdefault(section, {})[key] = list(value) if isinstance(value, tuple) else value
    counts = ", ".join(f"{images} {split}" for split, (images, _) in result.splits.items())
    heading = visible(f"raydd init {folder}: {counts} images").replace("\n", " ")
    return f"# {heading}\n{yaml.safe_dump(tree, sort_keys=False, allow_unicode=False)}"
