"""The methods by name. A method is a file that holds its settings of the one engine, and one line here.

From outside the package: `METHODS["mine"] = Method(paper=..., settings={"distill.blend": "none", ...})`.
"""

from raydd.distill.methods import repblend
from raydd.distill.methods.method import Method

METHODS: dict[str, Method] = {
    "repblend": repblend.METHOD,
}

__all__ = ["METHODS", "Method"]
