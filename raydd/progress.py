"""How a stage tells what it has done: one plain callable, so that the engine never learns who listens."""

from typing import Protocol


class Leave(BaseException):
    """Raised by a listener to end the work here; a distillation keeps its state first. No error: nobody handles it."""


class Progress(Protocol):
    """Called with the name of the work, how much is done, and how much there is in all. It may raise `Leave`."""

    def __call__(self, work: str, done: int, total: int) -> None:
        """Note that `done` of `total` units of `work` are done; `done` starts at what was there already."""
        ...


def silent(work: str, done: int, total: int) -> None:
    """Listen to nothing."""
