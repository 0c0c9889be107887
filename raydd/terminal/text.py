"""Short texts: a curve, settings, a duration, each on one line; they show over ssh as well."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

_BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float], width: int = 16) -> str:
    """The last values as bars between the least and the greatest of those shown; what is not finite is a gap."""
    shown = list(values)[-width:]
    finite = [value for value in shown if math.isfinite(value)]
    if not finite:
        return ""
    low, reach = min(finite), max(finite) - min(finite)

    def bar(value: float) -> str:
        if not math.isfinite(value):
            return " "
        return _BARS[round((value - low) / reach * (len(_BARS) - 1))] if reach else _BARS[0]

    return "".join(map(bar, shown))


def brief(settings: Mapping[str, Any]) -> str:
    """Settings on one line, numbers short, the section distill unnamed."""

    def short(value: Any) -> str:
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    return ", ".join(f"{name.removeprefix('distill.')} {short(value)}" for name, value in settings.items())


def duration(seconds: float) -> str:
    """Seconds as `45 s`, `12 min` or `3.5 h`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
