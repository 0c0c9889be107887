"""How a stage reports its progress: through one plain callable, so that the engine does not depend on the listener."""

from typing import Protocol


class Leave(BaseException):
    """Raised by a listener to end the work; a distillation saves its state first.

    It is not an `Exception`, so handlers of errors do not catch it.
    """


class Progress(Protocol):
    """Called with the name of the work, the amount done and the total amount. It may raise `Leave`."""

    def __call__(self, work: str, done: int, total: int) -> None:
        """Report that `done` of `total` units of `work` are done; units that existed before count as done."""
        ...


def silent(work: str, done: int, total: int) -> None:
    """Report nothing."""
