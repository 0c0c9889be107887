"""MkDocs hook that converts formulas to MathML when the site is built, so that pages need no script to show them."""

import html
import re

from latex2mathml.converter import convert

_FORMULA = re.compile(r'<(span|div) class="arithmatex">(?:\\\(|\\\[)(.*?)(?:\\\)|\\\])</\1>', re.DOTALL)


def on_page_content(content: str, **_: object) -> str:
    """Return the page with each formula that arithmatex has marked converted to MathML."""
    return _FORMULA.sub(_to_mathml, content)


def _to_mathml(match: re.Match[str]) -> str:
    display = "block" if match[1] == "div" else "inline"
    formula = convert(html.unescape(match[2]).strip(), display=display)
    return f'<div class="formula" tabindex="0">{formula}</div>' if display == "block" else formula
