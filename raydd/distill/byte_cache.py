"""A cache with a limit in bytes, which drops first what was not asked for the longest."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar


class Sized(Protocol):
    """A value that knows its size."""

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        ...


Value = TypeVar("Value", bound=Sized)


class ByteCache(Generic[Value]):
    """Values by their keys, in the order of their last use."""

    def __init__(self, most_bytes: int, *, always: int = 1) -> None:
        """Start with an empty cache.

        Args:
            most_bytes: limit for all cached values.
            always: how many values, those that were asked for last, are cached in any case.
        """
        self._most_bytes, self._always = most_bytes, always
        self._values: OrderedDict[Hashable, Value] = OrderedDict()
        self._nbytes = 0

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """Return the value of a key; make it unless it is cached."""
        if (cached := self._values.get(key)) is not None:
            self._values.move_to_end(key)
            return cached
        value = self._values[key] = make()
        self._nbytes += value.nbytes
        while len(self._values) > self._always and self._nbytes > self._most_bytes:
            _, dropped = self._values.popitem(last=False)
            self._nbytes -= dropped.nbytes
        return value
