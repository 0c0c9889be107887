"""The README's code runs as it stands."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raydd.cli import main
from raydd.settings import load
from search_spaces import draw_configs, load_space

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
SMALL = """\
data: {reader: mine:read, root: pictures}
encoders: {image: mine:image, text: mine:text}
features: {views: 2}
experts: {count: 2, epochs: 2, batch_size: 8}
distill: {pairs: 4, minibatch: 4, rank: 2, steps: 4, target_epochs: 1, max_start_epoch: 1}
pixels: {steps: 2}
students: {epochs: 2}
evaluate: {seeds: 2}
"""


def snippet(holding: str) -> str:
    """The one Python block of the README that holds this text."""
    (found,) = (block for block in PYTHON if holding in block)
    return found


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the README's reader and encoders as mine.py, pictures with captions, and settings for them."""
    rng = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for number in range(24):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(tmp_path / f"pictures/{number:02}.png")
        (tmp_path / f"pictures/{number:02}.txt").write_text(f"noise, {'abcdefghijklmnopqrstuvwxyz'[number] * 3}\n")
    (tmp_path / "mine.py").write_text(snippet("def read(") + "\n\n" + snippet("def image("))
    (tmp_path / "small.yaml").write_text(SMALL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    monkeypatch.setenv("RAYDD_HOME", str(tmp_path / "home"))
    return tmp_path


def test_a_run_with_a_reader_and_encoders_of_ones_own_is_read_back_without_raydd(
    workplace: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["run", "--config", "small.yaml", "--json", "out.json"]) == 0
    scores = json.loads(Path("out.json").read_text())
    assert set(scores) == {"synthetic", "random", "full", "made"}
    assert set(scores["synthetic"]["r_mean"]) == {"mean", "std", "seeds"}
    printed = re.search(r"synthetic set: (\S+)", capsys.readouterr().out)
    assert printed
    code = snippet("load_file").replace("import json, sys", "import json, sys\nsys.modules['raydd'] = None")
    done = subprocess.run(
        [sys.executable, "-c", code, printed[1]], check=True, capture_output=True, text=True, cwd=workplace
    )
    assert done.stdout.startswith("4 (64, 64) torch.Size([4, 26]) torch.Size([4, 4]) {'image': 'mine:image'")


def test_reading_back_takes_ten_lines():
    lines = [line for line in snippet("load_file").splitlines() if line and not line.startswith(("import", "from"))]
    assert len(lines) <= 10


def test_the_search_space_suggests_settings(tmp_path: Path):
    file = tmp_path / "mine.py"
    file.write_text(snippet("def space("))
    configs = draw_configs(load_space(f"{file}:space"), load())
    assert configs[0].distill.target_epochs == 7
    assert {config.distill.blend for config in configs} == {"none"}


def test_the_tests_command_is_where_ci_looks_for_it():
    found = re.search(r"^<!-- tests -->\n```sh\n(.*)\n```$", README, re.MULTILINE)
    assert found
    assert found[1] == 'pip install -e ".[dev]" && python -m pytest'


def test_every_file_that_it_names_is_there():
    for name in re.findall(r"\]\(([\w./]+)\)", README):
        assert (Path(__file__).parents[1] / name).exists(), name


@pytest.mark.slow
def test_the_stages_run_from_python(tmp_path: Path):
    done = subprocess.run(
        [sys.executable, "-c", snippet("stages.distill(")],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # small matrices: threads wait for each other on a busy machine
    )
    assert "494 train, 61 val, 122 test images" in done.stdout
    assert re.search(r"val r_mean \d+\.\d percent", done.stdout)
