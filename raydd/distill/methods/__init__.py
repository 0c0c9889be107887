"""The methods by name. Each method is a file with settings for the shared engine, and one line here.

For a method of your own, set `distill.method` to `module:METHOD` or `FILE.py:METHOD`.
"""

from raydd.distill.methods import apm, covmatch, lgm, lors, mdm, mtt_vl, plain, repblend, ridge, tesla_vl
from raydd.distill.methods.method import Method
from raydd.outside import find

METHODS: dict[str, Method] = {
    "plain": plain.METHOD,
    "mtt-vl": mtt_vl.METHOD,
    "tesla-vl": tesla_vl.METHOD,
    "lors": lors.METHOD,
    "repblend": repblend.METHOD,
    "covmatch": covmatch.METHOD,
    "apm": apm.METHOD,
    "ridge": ridge.METHOD,
    "mdm": mdm.METHOD,
    "lgm": lgm.METHOD,
}


def find_method(name: str) -> Method:
    """Return one of raydd's methods, or a user's own as `FILE.py:NAME` or `module:NAME`, which is run as code.

    Raises:
        ConfigError: there is no such method, its file fails, or the named object is not a `Method`.
    """
    expected = 'a raydd.distill.methods.Method, as in METHOD = Method(paper="...", settings={"distill.blend": "none"})'
    return find(name, METHODS, "distill.method", Method, expected)


__all__ = ["METHODS", "Method", "find_method"]
