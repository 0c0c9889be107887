"""Cache of what a process has opened: data sets, features and encoders, each opened only once."""

from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from raydd.config import DataConfig
from raydd.data.checking import Check, check_on_threads
from raydd.distill.trajectories import Trajectories

if TYPE_CHECKING:
    from raydd.protocols.base import Workbench

Value = TypeVar("Value")

Listings = Mapping[DataConfig, str]
"""Data sets that were read before: maps their settings to the names of their records in the store."""
Fetch = Callable[["Workbench[Any]", Trajectories[Any], int], None]
"""Makes sure that the store has the snapshots of one expert that the workbench's distillation reads."""


class Opened:
    """What a process has opened, keyed by what decides it. The workbenches of a run share one object."""

    def __init__(self, listings: Listings | None = None, check: Check = check_on_threads) -> None:
        """Start with nothing open.

        Args:
            listings: listings of another process; their data sets are opened from the store, without their reader.
            check: checks the images of a data set that is read for the first time.
        """
        self.listings: dict[DataConfig, str] = dict(listings or {})
        self.check = check
        self.fetch: Fetch | None = None
        """Called when a distillation step needs an expert. None: all experts are trained before the first step."""
        self._values: dict[Hashable, Any] = {}

    def once(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """Return the value of a key; `make` makes it on first use."""
        if key not in self._values:
            self._values[key] = make()
        return self._values[key]

    def latest(self, key: Hashable, version: Hashable, make: Callable[[], Value]) -> Value:
        """Return the value of a key in one version; another version replaces it, so that only one is in memory."""
        if key not in self._values or self._values[key][0] != version:
            self._values.pop(key, None)
            self._values[key] = version, make()
        return self._values[key][1]
