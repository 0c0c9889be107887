"""What every attack of tests/attack asks: an exit code that is meant, one sentence that names the culprit, no more."""

import contextlib
import io
from dataclasses import dataclass
from pathlib import Path

from stage_settings import TINY

from raydd.cli import main


@dataclass(frozen=True)
class Said:
    """How a command ended."""

    code: int
    out: str
    error: str

    def is_refusal_of(self, *culprits: str) -> bool:
        """Whether it was refused in one sentence on one line that names all culprits."""
        self.is_in_order()
        assert self.code == 2, self
        lines = self.error.strip().splitlines()
        told = [line for line in lines if line.startswith("raydd: ")]
        assert len(told) == 1, self.error
        assert told[0] == lines[-1], self.error
        assert all(culprit in told[0] for culprit in culprits), (culprits, told[0])
        return True

    def is_in_order(self) -> bool:
        """Whether nothing came that nobody thought of, and nothing that commands a terminal."""
        text = self.out + self.error
        assert "unexpected" not in text, text
        assert "Traceback" not in text, text
        assert self.code in (0, 1, 2), self
        assert not any(ord(letter) < 32 and letter not in "\n\t" for letter in text), ascii(text)
        return True


def attack(*arguments: object) -> Said:
    """Give a command in this process."""
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        code = main([str(argument) for argument in arguments])
    return Said(code, out.getvalue(), error.getvalue())


def flags(root: Path, home: Path, **changed: object) -> list[str]:
    """The settings of a run of a second as flags; `changed` by dotted names with _ for the dot, once."""
    settings = {**TINY, "data.root": root, "place.home": home, "distill.images": "features", "place.mlflow": "none"}
    settings |= {name.replace("_", ".", 1): value for name, value in changed.items()}
    return [part for name, value in settings.items() for part in (f"--{name}", str(value))]
