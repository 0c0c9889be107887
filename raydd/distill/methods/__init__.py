"""The methods by name. A method is a file that holds its settings of the one engine, and one line here.

From outside the package: `distill.method: mine.py:METHOD`, or `module:METHOD` of a module that Python can import.
"""

from raydd.distill.methods import lors, mtt_vl, repblend, tesla_vl
from raydd.distill.methods.method import Method
from raydd.errors import ConfigError, nearest
from raydd.outside import outside

METHODS: dict[str, Method] = {
    "mtt-vl": mtt_vl.METHOD,
    "tesla-vl": tesla_vl.METHOD,
    "lors": lors.METHOD,
    "repblend": repblend.METHOD,
}


def find_method(name: str) -> Method:
    """A method of the registry, or a user's own as `FILE.py:NAME` or `module:NAME`, which is run as code.

    Raises:
        ConfigError: there is no such method.
    """
    if name in METHODS:
        return METHODS[name]
    if ":" not in name:
        raise ConfigError(
            f"distill.method {name!r} is unknown. {nearest(name, METHODS)} Your own is FILE.py:NAME or module:NAME."
        )
    found = outside(name, "distill.method")
    if not isinstance(found, Method):
        raise ConfigError(
            f"distill.method {name} is a {type(found).__name__}, but must be a raydd.distill.methods.Method. "
            'Write METHOD = Method(paper="...", settings={"distill.blend": "none"}).'
        )
    return found


__all__ = ["METHODS", "Method", "find_method"]
