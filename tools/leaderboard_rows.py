"""Reads and checks the rows of docs/leaderboard.yaml, which people copy from `raydd evaluate` or write by hand."""

from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from raydd.errors import ConfigError, shown
from raydd.evaluate.retrieval import SHOWN
from raydd.export.leaderboard import Row
from raydd.settings import read_yaml


def read_rows(path: Path) -> list[Row]:
    """Read the rows of a YAML file, which holds a list.

    Raises:
        ConfigError: a row is invalid; the message names the row and the first field that is missing or wrong.
    """
    tree = read_yaml(path, "file of rows")
    if not isinstance(tree, list):
        raise ConfigError(f"{path} must be a list of rows, not {shown(tree)}.")
    return [_validated_row(entry, f"{path}: row {number}") for number, entry in enumerate(tree, 1)]


def _validated_row(row: Any, location: str) -> Row:
    try:
        validated = TypeAdapter(Row).validate_python(row)
    except ValidationError as error:
        first_error = error.errors()[0]
        raise ConfigError(
            f"{location}: {'.'.join(map(str, first_error['loc']))}: {first_error['msg']}. Correct the row."
        ) from error
    missing = [metric for metric in SHOWN if metric not in validated.scores]
    if missing or validated.scores["r_mean"] is None:
        raise ConfigError(f"{location} has no score {', '.join(missing) or 'r_mean'}. Copy the row that raydd wrote.")
    if not validated.source:
        raise ConfigError(f"{location} does not say where to get the set. Write its address as source.")
    return validated
