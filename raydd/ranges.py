"""Valid ranges of numbers, names and devices among the settings. They are checked when settings load.

Every float must be finite, and every seed must fit in 32 bits, as in NumPy and Optuna. A setting's annotation gives the
bounds that depend on no other setting. They also refuse absurd values, such as a learning rate that overflows float32.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Mapping
from typing import Annotated, get_type_hints

from raydd.errors import ConfigError, shown

MOST = 10**9  # bound of a count that has no other bound


@dataclasses.dataclass(frozen=True)
class Between:
    """Bounds of a number that depend on no other setting, in its annotation: `Annotated[int, Between(1, 100)]`."""

    low: float
    high: float
    below: bool = False
    """Whether the number must be smaller than `high`."""

    def hold(self, value: float) -> bool:
        """Return whether a number is within the bounds."""
        return self.low <= value <= self.high and not (self.below and value == self.high)

    def __str__(self) -> str:
        """The bounds in words."""
        low, high = map(_format_bound, (self.low, self.high))
        return f"{low} or more and under {high}" if self.below else f"{low} to {high}"


Seed = Annotated[int, Between(0, 2**32 - 1)]
Count = Annotated[int, Between(1, MOST)]
FromZero = Annotated[int, Between(0, MOST)]
Rate = Annotated[float, Between(1e-12, 1e6)]
"""A learning rate that must not be zero."""
RateFromZero = Annotated[float, Between(0.0, 1e6)]

_NAME_LENGTH = 120  # characters of a name
_NAME_BYTES, _MADE_NAME_BYTES = 200, 150  # of a name, and of one that raydd makes and extends; file systems allow 255
_NAME = re.compile(r"\w[\w .,:;+=@()-]*")
NAME_RULE = f"1 to {_NAME_LENGTH} letters, digits, spaces and _ . , : ; + = @ ( ) -, a letter or digit first"
_DEVICE = re.compile(r"auto|cpu|(cuda|mps|xpu)(:[0-9]{1,3})?")
DEVICE_RULE = "auto, cpu, cuda or cuda:1; mps and xpu where torch was built for them"


def check_numbers(section: str, settings: object) -> None:
    """Refuse a section's numbers that are not finite or out of range, text with a NUL, and lists that repeat a value.

    Raises:
        ConfigError: a value is refused; the message names the setting, its value and the range.
    """
    bounds = _bounds_in(type(settings))
    for item in dataclasses.fields(settings):  # pyright: ignore[reportArgumentType]
        name, value = f"{section}.{item.name}", getattr(settings, item.name)
        if isinstance(value, tuple):
            require(len(set(value)) == len(value), name, value, "a list without repetitions")
        for element in value if isinstance(value, tuple) else (value,):
            if isinstance(element, str):
                require("\0" not in element, name, element, "text without a NUL character")
            if isinstance(element, int | float):
                _check_number(name, element, bounds.get(item.name))


@functools.cache
def _bounds_in(section: type) -> Mapping[str, Between]:
    """Return the bounds in the annotations of a section's settings."""
    hints = get_type_hints(section, include_extras=True)
    return {
        name: part
        for name, hint in hints.items()
        for part in getattr(hint, "__metadata__", ())
        if isinstance(part, Between)
    }


def _check_number(name: str, value: float, bounds: Between | None) -> None:
    require(math.isfinite(value), name, value, "a finite number")
    if bounds:
        require(bounds.hold(value), name, value, str(bounds))
    else:
        require(abs(value) <= MOST, name, value, f"at most {_format_bound(MOST)}")


def _format_bound(bound: float) -> str:
    return f"{bound:,}".replace(",", " ") if isinstance(bound, int) else f"{bound:g}"


def check_name(name: str, value: str) -> None:
    """Refuse a name that cannot be used for a folder, for a run in MLflow and for a study.

    Raises:
        ConfigError: the name is refused; the message names the setting and the rule.
    """
    require(len(value) <= _NAME_LENGTH and bool(_NAME.fullmatch(value)), name, value, NAME_RULE)
    require(len(value.encode()) <= _NAME_BYTES, name, value, f"at most {_NAME_BYTES} bytes long in UTF-8")


def as_name(text: str) -> str:
    """Return any text as a name that `check_name` accepts."""
    name = re.sub(r"[^\w .,:;+=@()-]", "_", text)[:_NAME_LENGTH].encode()[:_MADE_NAME_BYTES].decode(errors="ignore")
    return name if _NAME.fullmatch(name) else f"x{name}"[:_NAME_LENGTH]


def check_device(value: str) -> None:
    """Refuse a device that torch does not compute on, such as meta.

    Raises:
        ConfigError: the device is refused; the message names the setting and the valid devices.
    """
    cuda = re.sub("^gpu", "cuda", value, flags=re.IGNORECASE)
    hint = f". Did you mean {cuda}?" if cuda != value and _DEVICE.fullmatch(cuda) else "."
    if not _DEVICE.fullmatch(value):
        raise ConfigError(f"place.device is {shown(value)}, but must be {DEVICE_RULE}{hint}")


def require(holds: bool, name: str, value: object, rule: str) -> None:
    """Refuse a setting that breaks its rule.

    Raises:
        ConfigError: `holds` is False.
    """
    if not holds:
        raise ConfigError(f"{name} is {shown(value)}, but must be {rule}.")
