"""The version of the code that runs, noted in records and results. It is not part of a fingerprint."""

import subprocess
from functools import cache
from pathlib import Path

VERSION = "0.2.0"  # as in pyproject.toml and CITATION.cff

_DIGITS = 12  # of a commit's hash
_SECONDS = 10.0  # longer than git takes for a checkout on a slow disk


@cache
def code_version(folder: Path = Path(__file__).parents[1]) -> str:
    """Return raydd's version, in a git checkout with the commit: `0.2.0+g1a2b3c4d5e6f`, `.dirty` if files changed.

    If git is missing, does not trust the checkout or does not answer, return the version alone.

    Args:
        folder: the folder that holds the package; only a checkout of exactly this folder counts.
    """
    if not (folder / ".git").exists():
        return VERSION
    describe = ["git", "--no-optional-locks", "describe", "--always", "--exclude=*", "--dirty", f"--abbrev={_DIGITS}"]
    try:
        description = subprocess.run(
            describe, cwd=folder, capture_output=True, text=True, check=True, timeout=_SECONDS
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return VERSION
    return f"{VERSION}+g{description.strip().replace('-dirty', '.dirty')}"
