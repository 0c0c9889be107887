"""Makes the score of an exported set reproducible: describes its file, and gives a command with the expected score.

The expected score is that of the exported files, read as `raydd evaluate --outside` reads them, so the command
reproduces it.
"""

import math
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from raydd.config import Config
from raydd.distill.loss_names import LOSS_NAMES
from raydd.distill.set_shapes import FACTOR
from raydd.errors import ConfigError
from raydd.export.cards import plain
from raydd.export.scoring import name_of, score_foreign
from raydd.outside import without_folder
from raydd.progress import Progress
from raydd.sets.foreign import read_foreign
from raydd.sets.read import OpenedSet
from raydd.sets.write import SET
from raydd.settings import flatten, load
from raydd.store import Store
from raydd.terminal.console import visible

DESCRIPTION = "set.yaml"
_MIN_TOLERANCE = 0.1  # smallest tolerance in points: rounding may change a score this much even if all students agree

# Settings that change the score of a given set: prefixes of sections, and single settings.
_SCORE_SETTINGS = ("data.", "encoders.", "students.", "experts.width", "experts.temperature")
_SCORE_SETTINGS += ("evaluate.choice", "evaluate.checks")
_ALWAYS_SHOWN = ("distill.protocol", "evaluate.split", "evaluate.seeds")  # shown even if they have their defaults
# Paths on the reader's machine.
_LOCAL_PATHS = {
    "data.root": "DATA",
    "data.images": "IMAGES",
    "encoders.image_weights": "WEIGHTS",
    "encoders.text_weights": "WEIGHTS",
}


def require_scorable(opened: OpenedSet, config: Config) -> None:
    """Refuse a set whose score could not be reproduced from its files, before anything is written.

    Raises:
        ConfigError: the settings name other encoders, the set's loss is user code, or `evaluate.seeds` is 1.
    """
    opened.provenance.require_encoders(config)
    if opened.synthetic.loss not in LOSS_NAMES:
        raise ConfigError(
            f"Students of this set train with the loss {opened.synthetic.loss}, which is code that other users do not "
            "have. Export the set with --to hf."
        )
    if config.evaluate.seeds < 2:
        raise ConfigError("evaluate.seeds is 1, which gives no standard deviation. Set it to 2 or more (default 5).")


def write_description(opened: OpenedSet, config: Config, folder: Path) -> dict[str, str]:
    """Write the description of the exported tensors for `raydd evaluate --outside`; return the file."""
    synthetic, similarity = opened.synthetic, opened.synthetic.similarity
    images: dict[str, Any] = {"key": "pixels", "are": "pixels-255"}
    if synthetic.pixels is None:
        images = {"key": "image_features", "are": "features", "of": without_folder(config.encoders.image)}
    similarity_keys: dict[str, Mapping[str, Any] | str] = {
        "identity": "none",
        "full": {"matrix": f"{FACTOR}entries"},
        "low-rank": {name: FACTOR + name for name in similarity.factors} | {"alpha": similarity.alpha},
    }
    description = {
        "file": SET,
        "name": name_of(opened),
        "images": images,
        "texts": {"key": "text_features", "are": "features", "of": without_folder(config.encoders.text)},
        "similarity": similarity_keys[similarity.kind],
        "rates": {"image": "rates.0", "text": "rates.1"},
        "loss": synthetic.loss,
        **({} if synthetic.image_centre is None else {"centre": "image_centre"}),
    }
    (folder / DESCRIPTION).write_text(
        yaml.safe_dump(description, sort_keys=False, allow_unicode=True), encoding="utf-8"
    )
    return {DESCRIPTION: f"description of the tensors in {SET}, for `raydd evaluate --outside`"}


def check_section(folder: Path, config: Config, store: Store, progress: Progress) -> str:
    """Score an export, and return a Markdown section with the command, the expected scores and their tolerances.

    Args:
        folder: folder of the export, with its description.
        config: settings of the data, the encoders, the students and the split to score on.
        store: store of the features.
        progress: reports the progress of the scoring.
    """
    bare_config = replace(config, evaluate=replace(config.evaluate, baselines=(), encoders=(), classes="", unseen=""))
    row = score_foreign(bare_config, store, read_foreign(folder / DESCRIPTION), progress).row
    scores = {metric: score for metric, score in row.scores.items() if score}
    data_note = "; `DATA` is the folder of your copy" if config.data.root else ""
    lines = [
        "## Check the score",
        "",
        "In this folder, with raydd installed:",
        "",
        f"```sh\n{command(config)}\n```",
        "",
        f"The data are {plain(row.data)}, fingerprint {row.fingerprint}{data_note}. The scores are in percent on "
        f"{row.split}, means of {row.seeds} students.",
        "",
        "| score | expected | tolerance |",
        "|---|---:|---:|",
        *(f"| {metric} | {mean:.2f} | ± {tolerance(std, row.seeds):.2f} |" for metric, (mean, std) in scores.items()),
        "",
        "The command trains students with the same seeds, so the same machine gives the same scores. Another machine "
        "rounds differently, so its students end like students with other seeds. The tolerance is therefore twice the "
        f"standard deviation of the difference between two means of {row.seeds} students, at least {_MIN_TOLERANCE}.",
    ]
    return "\n".join(lines) + "\n"


def tolerance(std: float, seeds: int) -> float:
    """Return how far two means over `seeds` students may be apart, in points.

    Args:
        std: standard deviation over students.
        seeds: number of students.
    """
    return max(_MIN_TOLERANCE, 2 * std * math.sqrt(2 / seeds))


def command(config: Config) -> str:
    """Return the command that scores an export, run in its folder, with all non-default settings that matter."""
    return " \\\n  ".join([f"raydd evaluate --outside {DESCRIPTION}", *_flags(config), "--evaluate.baselines"])


def _flags(config: Config) -> Iterator[str]:
    defaults = flatten(load(settings={"distill.protocol": config.distill.protocol}))
    for name, value in flatten(config).items():
        decides = name.startswith(_SCORE_SETTINGS) and value != defaults[name]
        if not (decides or name in _ALWAYS_SHOWN):
            continue
        if isinstance(value, bool):
            section, setting = name.split(".")
            yield f"--{name}" if value else f"--{section}.no-{setting}"
        elif name in _LOCAL_PATHS:
            yield f"--{name} {_LOCAL_PATHS[name]}"
        else:
            values = value if isinstance(value, tuple) else (value,)
            yield " ".join([f"--{name}", *(visible(shlex.quote(without_folder(str(item)))) for item in values)])
