"""The README is short, names what is there, states what the results page states, and its code runs as it stands."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from raydd.cli import COMMANDS
from raydd.settings import load

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "docs/results/index.md").read_text(encoding="utf-8")
TESTS = 'pip install -e ".[dev]" && python -m pytest -n 2 --dist loadgroup'


def blocks(language: str) -> list[str]:
    """The README's blocks of code in one language."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_it_stays_short():
    assert len(README.encode()) <= 9000


def test_two_commands_are_all_that_set_up_is():
    installs = [line for block in blocks("sh") for line in block.splitlines() if "install" in line]
    assert installs == ['pip install -e ".[demo]" && raydd demo', TESTS]


def test_the_tests_command_is_where_ci_looks_for_it():
    found = re.search(r"^<!-- tests -->\n```sh\n(.*)\n```$", README, re.MULTILINE)
    assert found
    assert found[1] == TESTS


def test_every_file_that_it_names_is_there():
    named = re.findall(r"\]\((?!https?:)([\w./-]+)\)|src=\"([\w./-]+)\"", README)
    assert len(named) > 10
    assert [name for name in map("".join, named) if not (ROOT / name).exists()] == []


def test_every_command_that_it_names_is_one():
    assert set(re.findall(r"\braydd ([a-z]+) ", "\n".join(blocks("sh")))) <= set(COMMANDS)


def test_its_settings_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FLICKR8K", "/data/flickr8k")
    (text,) = blocks("yaml")
    (tmp_path / "flickr8k.yaml").write_text(text)
    config = load(tmp_path / "flickr8k.yaml")
    assert (config.data.reader, config.data.root, config.data.name) == ("flat-json", "/data/flickr8k", "flickr8k")
    assert (config.distill.pairs, config.distill.images, config.evaluate.seeds) == (99, "features-then-pixels", 5)


def test_its_numbers_are_those_of_the_results_page():
    rows = [re.findall(r"\d+\.\d ± \d\.\d", line) for line in README.splitlines() if line.startswith("| ")]
    rows = [row for row in rows if row]
    assert len(rows) == 7
    results = [found for line in RESULTS.splitlines() if (found := re.findall(r"\d+\.\d ± \d\.\d", line))]
    assert [row for row in results[:8] if row in rows] == rows, "rows of the first table, in its order"
    ours, full = (float(rows[place][-1].split()[0]) for place in (4, 6))
    assert f"keep {100 * ours / full:.0f} % of the retrieval quality" in README


@pytest.mark.slow
def test_its_python_runs(tmp_path: Path):
    (code,) = blocks("python")
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # small matrices: threads wait for each other on a busy machine
    )
    assert re.search(r"val r_mean \d+\.\d percent", done.stdout)
