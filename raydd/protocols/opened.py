"""What a process has opened: data sets, features and encoders, each once, whoever asks for it."""

from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from raydd.config import DataConfig
from raydd.data.checking import Check, check_on_threads
from raydd.distill.trajectories import Trajectories

if TYPE_CHECKING:
    from raydd.protocols.base import Workbench

Thing = TypeVar("Thing")

Listings = Mapping[DataConfig, str]
"""Data sets that were read already: by their settings, the names of their records in the store."""
Fetch = Callable[["Workbench[Any]", Trajectories[Any], int], None]
"""Has one expert's snapshots, those that the workbench's distillation reads, in the store."""


class Opened:
    """What a process has opened, each thing under what decides it; workbenches of one run share it."""

    def __init__(self, listings: Listings | None = None, check: Check = check_on_threads) -> None:
        """Nothing is open yet.

        Args:
            listings: of another process; these data sets are opened from the store without asking their reader.
            check: looks at the images of a data set that is read for the first time.
        """
        self.listings: dict[DataConfig, str] = dict(listings or {})
        self.check = check
        self.fetch: Fetch | None = None
        """Has an expert in the store when a distillation step needs it; None: all are there before the first step."""
        self._things: dict[Hashable, Any] = {}

    def once(self, key: Hashable, make: Callable[[], Thing]) -> Thing:
        """The thing of that key, made when it is first asked for."""
        if key not in self._things:
            self._things[key] = make()
        return self._things[key]
