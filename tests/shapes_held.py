"""What holds functions to the shapes in their signatures while tests run: jaxtyping's hook calls `held` for each.

Other hints are pyright's to check, and a test's stand-ins need not keep to them. A size that is computed, as in "2*K",
is not checked: its letters may stand in no tensor that the function takes.
"""

import re
from types import FunctionType
from typing import Any, get_args

from beartype import beartype
from jaxtyping import AbstractArray

_COMPUTED = re.compile(r"\w[-+*/]\w")


def held(function: Any) -> Any:
    """The function, whose tensors are checked at each call: those that it takes, and what it gives."""
    if not isinstance(function, FunctionType):
        return function
    hints = function.__annotations__
    checked = {name: hint for name, hint in hints.items() if (shapes := _shapes(hint)) and not _COMPUTED.search(shapes)}
    if not checked:
        return function
    function.__annotations__ = checked
    try:
        return beartype(function)
    finally:
        function.__annotations__ = hints


def _shapes(hint: Any) -> str:
    """The shapes that a hint says, in one line; empty if it says none."""
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        return f"{hint.dim_str}; "
    return "".join(map(_shapes, get_args(hint)))
