import ast
import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table

import raydd
from raydd.terminal.console import PlainConsole, visible


def shown(what: Any) -> str:
    console = PlainConsole(file=io.StringIO(), width=200)
    console.print(what, soft_wrap=True)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(
    "text", ["[/b]", "[bold]x", "[red]a[/red]", ":smile:", "[link=http://x]y[/link]", "[1]", "\\[x"]
)
def test_markup_in_names_is_text(text: str) -> None:
    table = Table(title=text)
    table.add_column(text)
    table.add_row(text)
    assert shown(text) == f"{text}\n"
    assert shown(table).count(text) == 3


@pytest.mark.parametrize("text", ["\x1b[2Jx", "a\x07b", "\x9b31m", "a\rb", "a\u202eb", "\udc80"])
def test_commands_to_the_terminal_are_spelt_out(text: str) -> None:
    said = shown(text)
    assert "\\x" in said or "\\r" in said or "\\u" in said
    assert not any(ord(letter) < 32 and letter != "\n" for letter in said)
    assert visible(text) in said


@given(st.text(st.characters(codec="utf-8")))
def test_any_text_can_be_shown(text: str) -> None:
    assert not {"\x1b", "\r", "\x07"} & set(shown(text))


def test_rich_alone_would_not() -> None:  # else this file shows nothing
    console = Console(file=io.StringIO())
    with pytest.raises(Exception, match="closing tag"):
        console.print("[/b]")


def test_no_command_prints_by_another_console() -> None:
    package = Path(raydd.__file__).parent
    kinds = ("Console", "PlainConsole")
    others = {
        str(file.relative_to(package))
        for file in package.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in kinds
    }
    assert others == {"terminal/console.py"}
