"""The rows of a comparison, planned from its settings: each method at each number of pairs on each data set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raydd.config import Config
from raydd.distill.methods import METHODS, find_method
from raydd.distill.selections import SELECTIONS
from raydd.errors import ConfigError, nearest, shown
from raydd.presets import PRESETS
from raydd.protocols import can_select, trial_settings
from raydd.ranges import as_name
from raydd.settings import with_file, with_settings

TUNED, AS_PUBLISHED, AS_GIVEN = "tuned", "published settings", ""
FULL = "full"
_AS_PUBLISHED = {
    "students.rate": "published",
    "distill.fit_rates": False,
    "evaluate.choice": "best-on-split",
}
_PRESET_SECTIONS = ("distill.", "pixels.")  # other encoders or experts would not be comparable within one table


@dataclass(frozen=True)
class RowPlan:
    """The plan of one row."""

    method: str
    """Name of a selection, method or preset, or full."""
    variant: str
    """`tuned` or `published settings`; empty for rows with the given settings or without settings."""
    data: str
    """Name of the data set."""
    pairs: int
    """The budget: real pairs of a selection, or synthetic pairs plus one for the similarity matrix; 0 for full."""
    config: Config
    """All settings of this row."""

    @property
    def kind(self) -> str:
        """Kind of the row in `raydd.stages.evaluating`: the name of a selection, `full` or `synthetic`."""
        return self.method if self.method in SELECTIONS or self.method == FULL else "synthetic"

    @property
    def sets(self) -> int:
        """Number of sets; 1 for full data."""
        return 1 if self.method == FULL else self.config.compare.sets

    @property
    def name(self) -> str:
        """Name of the row in a table; a user-defined method is named without its folder."""
        method = Path(self.method).name
        return f"{method}, {self.variant}" if self.variant else method

    @property
    def description(self) -> str:
        """Short description of the row for progress messages."""
        return f"{self.name}, {self.pairs} pairs"


def configs_by_data(config: Config) -> dict[str, Config]:
    """Return the settings of each data set and protocol, by the name that the table gives it.

    Raises:
        ConfigError: a file of `compare.data` cannot be used, a method is unknown, or two have the same name.
    """
    configs = {file: with_file(config, file) for file in dict.fromkeys(config.compare.data)} or {"": config}
    bases, files = {}, {}
    for file, base in configs.items():
        _require_known(base.compare.methods)
        _require_distinct(base.compare.methods)
        name, settings = base.data.name or base.data.reader, {}
        if "distill.images" not in trial_settings(base):  # a trial would take as long as a row itself
            name, settings = f"{name}, image encoder trained", {"compare.trials": 0}
        if (first_file := files.setdefault(as_name(name), file)) != file:
            raise ConfigError(
                f"{first_file} and {file} of compare.data are both called {name!r}, and one table cannot tell them "
                "apart. If the data differ, set another data.name in one of the files. To compare the same data with "
                "other settings, start another comparison with another compare.name."
            )
        bases[name] = with_settings(base, settings)
    return bases


def _require_known(methods: Sequence[str]) -> None:
    """Refuse a name that is none of raydd's and names no code of the user's.

    Raises:
        ConfigError: there is no such selection, method or preset.
    """
    known = (*SELECTIONS, FULL, *METHODS, *PRESETS)
    for method in methods:
        if method not in known and ":" not in method:
            raise ConfigError(
                f"compare.methods has {shown(method)}, which is unknown. {nearest(method, known)} Name your own as "
                "module:NAME or FILE.py:NAME."
            )


def _require_distinct(methods: Sequence[str]) -> None:
    """Refuse two user-defined methods of the same name, since rows and files are identified by that name.

    Raises:
        ConfigError: two methods have the same name; the message names both.
    """
    methods_by_name: dict[str, str] = {}
    for method in methods:
        if (first_method := methods_by_name.setdefault(as_name(slug(method)), method)) != method:
            raise ConfigError(
                f"{first_method} and {method} of compare.methods have the same name, and one table cannot tell them "
                "apart. Rename one of the files."
            )


def row_plans(base: Config, data: str) -> list[RowPlan]:
    """Return all rows of a data set, in the order of `compare.pairs`; rows to be tuned have their method's settings."""
    plans = []
    for count in base.compare.pairs:
        for method in base.compare.methods:
            if not can_select(base, method):
                continue
            if base.compare.trials and is_tuned(method):
                plans.append(plan_of(base, method, data, count, TUNED, {}))
                if base.compare.published and find_method(method).published:
                    plans.append(plan_of(base, method, data, count, AS_PUBLISHED, find_method(method).published))
            else:
                plans.append(plan_of(base, method, data, count, AS_GIVEN, {}))
    return list(dict.fromkeys(plans))  # full data has no budget, so its equal rows become one


def settings_of(method: str) -> Mapping[str, Any]:
    """Return the settings of a method, or a preset's settings for the distillation and the pixels.

    Raises:
        ConfigError: there is no selection, method or preset of that name.
    """
    if method in SELECTIONS or method == FULL:
        return {}
    if method in PRESETS:
        preset = PRESETS[method]
        return {
            **find_method(preset.method).settings,
            **_preset_settings(preset.settings),
            "distill.method": preset.method,
        }
    return {**find_method(method).settings, "distill.method": method}


def _protocol_of(method: str) -> Mapping[str, Any]:
    """Return the settings that score a method as its published code does."""
    if method in SELECTIONS or method == FULL:
        return {}
    return find_method(PRESETS[method].method if method in PRESETS else method).protocol


def is_tuned(method: str) -> bool:
    """Whether a method is tuned by trials, which needs a search space; selections, presets and full have none."""
    real_pairs_or_preset = method in SELECTIONS or method == FULL or method in PRESETS
    return not real_pairs_or_preset and bool(find_method(method).space)


def plan_of(config: Config, method: str, data: str, pairs: int, variant: str, extra: Mapping[str, Any]) -> RowPlan:
    """Return the plan of a method's row.

    Args:
        config: the settings of the comparison.
        method: name of a selection, method or preset, or full.
        data: name of the data set.
        pairs: number of synthetic pairs of a method that learns a similarity matrix; other rows get one pair more.
        variant: see `RowPlan.variant`.
        extra: settings in addition to the method's own.

    Raises:
        ConfigError: the settings contradict each other.
    """
    settings = {**settings_of(method), **extra}
    if config.compare.as_published:
        settings |= {**_AS_PUBLISHED, **_protocol_of(method)}
    budget = pairs + 1  # a learned similarity matrix counts as a pair; methods without it get one pair more
    if method == FULL:
        return RowPlan(method, variant, data, 0, with_settings(config, settings))
    similarity = settings.get("distill.similarity", config.distill.similarity)
    learns_similarity = method not in SELECTIONS and similarity != "identity"
    settings["distill.pairs"] = pairs if learns_similarity else budget
    return RowPlan(method, variant, data, budget, with_settings(config, settings))


def slug(method: str) -> str:
    """Return a method's name for use in file names: FILE.py:NAME or module:NAME without its folder and colon."""
    return Path(method).name.replace(":", "-")


def _preset_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name.startswith(_PRESET_SECTIONS)}
