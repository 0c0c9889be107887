"""The documentation is as the code is: generated pages, examples, the tutorial and the notebook run as written."""

import json
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_sets import made_set
from PIL import Image

from raydd.cli import COMMANDS, main
from raydd.data import load_data
from raydd.data.encoders import IMAGE_ENCODERS, TEXT_ENCODERS
from raydd.data.readers import READERS
from raydd.distill.losses import find_loss
from raydd.distill.methods import METHODS
from raydd.settings import load, to_yaml
from raydd.store import Store
from search_spaces import draw_configs, load_space, spaces

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
EXAMPLES = DOCS / "examples"
SMALL = {
    "features.views": "2",
    "experts.count": "2",
    "experts.epochs": "2",
    "experts.batch_size": "8",
    "distill.pairs": "4",
    "distill.minibatch": "4",
    "distill.rank": "2",
    "distill.steps": "3",
    "distill.target_epochs": "1",
    "distill.images": "features",
    "students.epochs": "2",
    "evaluate.seeds": "2",
}


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL)


def test_the_generated_pages_are_as_the_code_is():
    import write_docs

    for name, content in write_docs.pages().items():
        assert (DOCS / name).read_text(encoding="utf-8") == content, f"run python tools/write_docs.py for docs/{name}"


def test_no_page_has_the_rests_of_a_merge():
    pages = [*ROOT.glob("*.md"), *(page for folder in ("docs", "cluster") for page in (ROOT / folder).rglob("*.md"))]
    assert len(pages) > 40
    left = {page.name: line for page in pages for line in page.read_text().splitlines() if re.match("[<>]{7} ", line)}
    assert not left


def test_every_formula_becomes_mathml_without_rests_of_tex():
    pytest.importorskip("latex2mathml", reason="builds the site")
    import mathml

    shown = 0
    for page in DOCS.rglob("*.md"):
        for formula in re.findall(r"\$\$\n(.*?)\n\$\$", page.read_text(encoding="utf-8"), re.DOTALL):
            made = mathml.on_page_content(f'<div class="arithmatex">\\[{formula}\\]</div>')
            assert made.startswith('<div class="formula"'), page
            assert "\\" not in made, f"{page}: {made}"
            shown += 1
    assert shown > 10


def test_every_method_and_command_has_its_place():
    assert all((DOCS / "methods" / f"{name}.md").is_file() for name in METHODS)
    assert all(f"`raydd {name}`" in (DOCS / "reference/commands.md").read_text() for name in COMMANDS)


def test_what_the_page_of_failures_quotes_is_what_raydd_says():
    code = "".join(path.read_text(encoding="utf-8") for room in ("raydd", "trainables") for path in files(room))
    code = re.sub(r'"\s*\n\s*f?"', "", code)  # strings that go on in the next line
    page = (DOCS / "failures.md").read_text(encoding="utf-8")
    quoted = [row.split("`")[1] for row in page.splitlines() if row.startswith(("| `", "| a trial"))]
    said = [part.strip(" .:") for message in quoted for part in re.split(r"'[^']*'|…|\(|\)|[A-Z]{3,}|\d+", message)]
    said = [part for part in said if len(part) > 11 and "current node" not in part]  # that one is Ray's
    assert len(said) > 12
    assert [part for part in said if part not in code] == []


def files(room: str) -> list[Path]:
    return list((ROOT / room).rglob("*.py"))


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the examples, and pictures with their captions in files and in a CSV file."""
    rng = np.random.default_rng(0)
    shutil.copytree(EXAMPLES, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "pictures").mkdir()
    rows = ["image,caption"]
    for number in range(24):
        caption = f"noise, {'abcdefghijklmnopqrstuvwxyz'[number] * 3}"
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(tmp_path / f"pictures/{number:02}.png")
        (tmp_path / f"pictures/{number:02}.txt").write_text(f"{caption}\n")
        rows += [f'{number:02}.png,"{caption}"', f"{number:02}.png,more"]
    (tmp_path / "pictures/captions.csv").write_text("\n".join([*rows, "../own_data.py,outside"]))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def commands(page: str) -> list[dict[str, str]]:
    """The settings of each command that a page of docs/extend shows."""
    shown = [block.split() for block in blocks(f"extend/{page}.md", "sh")]
    return [dict(zip((flag[2:] for flag in words[2::2]), words[3::2], strict=True)) for words in shown]


def test_own_data_encoders_and_method_run_as_shown(workplace: Path):
    (encoder,), (method,) = commands("encoder"), commands("method")
    settings = {**commands("data")[0], **encoder, **SMALL, **method, "place.home": "home"}
    assert main(["run", *(part for name, value in settings.items() for part in (f"--{name}", value))]) == 0
    assert len(list((workplace / "home/store/synthetic").iterdir())) == 1


def test_a_set_is_read_without_raydd_as_shown(workplace: Path, capsys: pytest.CaptureFixture[str]):
    settings = {**commands("data")[0], **commands("encoder")[0], **SMALL, "place.home": "home"}
    settings |= {"distill.images": "features-then-pixels", "pixels.steps": "2"}
    flags = [part for name, value in settings.items() for part in (f"--{name}", value)]
    assert main(["run", *flags, "--json", "out.json"]) == 0
    scores = json.loads((workplace / "out.json").read_text())
    assert set(scores) == {"synthetic", "random", "full", "made"}
    assert set(scores["synthetic"]["r_mean"]) == {"mean", "std", "seeds"}
    printed = re.search(r"synthetic set: (\S+)", capsys.readouterr().out)
    assert printed
    (code,) = blocks("share.md", "python")
    code = code.replace("import json, sys", "import json, sys\nsys.modules['raydd'] = None")
    done = subprocess.run([sys.executable, "-c", code, printed[1]], check=True, capture_output=True, text=True)
    assert done.stdout.startswith("4 4 torch.Size([4, 26]) torch.Size([4, 4]) {'image': 'own_encoders.py:image'")


def test_each_example_of_a_data_set_lists_the_same_pictures(workplace: Path):
    shown = [load(settings=settings).data for settings in commands("data")]
    data = [load_data(config, Store(workplace / "store")) for config in shown]
    assert len(data) > 1
    assert {tuple(id_ for pairs in each.splits for id_ in pairs.ids) for each in data} == {
        tuple(id_ for pairs in data[0].splits for id_ in pairs.ids)
    }
    assert [sum(len(pairs.captions) for pairs in each.splits) for each in data] == [24, 48]
    assert [(problem.kind, problem.which) for problem in data[1].problems] == [("image path outside", "../own_data.py")]


@pytest.mark.usefixtures("workplace")
def test_each_example_of_a_search_space_suggests_settings():
    drawn = [draw_configs(load_space(settings["sweep.space"]), load()) for settings in commands("space")]
    assert [configs[0].distill.target_epochs for configs in drawn] == [7, load().distill.target_epochs]
    assert {config.distill.seed for config in drawn[1]} == set(range(10))
    assert {config.distill.blend for configs in drawn for config in configs} == {"none"}


@pytest.mark.usefixtures("workplace")
def test_the_example_of_a_method_sets_what_it_says():
    (settings,) = commands("method")
    config = load(settings=settings)
    assert (config.distill.blend, config.distill.similarity) == ("fixed", "full")


def test_the_bars_of_the_picture_are_numbers_of_the_results_page():
    import draw_pictures

    results = (DOCS / "results/index.md").read_text(encoding="utf-8")
    assert [value for _, value, _ in draw_pictures.BARS if f"{value} ± " not in results] == []
    steps = {label.split(",")[0].split("\n")[0]: label.rpartition(", ")[2] for label, _, _ in draw_pictures.BARS[2:5]}
    assert steps == {"LoRS": "500 steps", "RepBlend": "500 steps", "cold sweep": "1,000 steps"}
    captions = [(ROOT / page).read_text(encoding="utf-8") for page in ("README.md", "docs/index.md")]
    assert all("so the bars do not rank the methods" in page for page in captions)


def test_every_example_is_shown_on_a_page():
    shown = "".join(page.read_text(encoding="utf-8") for page in DOCS.rglob("*.md"))
    assert [file.name for file in EXAMPLES.glob("*.py") if f'--8<-- "docs/examples/{file.name}"' not in shown] == []


def test_every_name_is_where_a_reader_looks_for_it():
    settings = (DOCS / "reference/settings.md").read_text(encoding="utf-8")
    layouts = (DOCS / "data.md").read_text(encoding="utf-8")
    overview = (DOCS / "methods/index.md").read_text(encoding="utf-8")
    contents = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for setting, known in {
        "data.reader": READERS,
        "encoders.image": {name for name in IMAGE_ENCODERS if not name[-1].isdigit()},  # one size of several is enough
        "encoders.text": TEXT_ENCODERS,
        "distill.method": METHODS,
        "sweep.space": spaces(),
    }.items():
        (row,) = (line for line in settings.splitlines() if line.startswith(f"| `{setting}` "))
        assert [name for name in known if name not in row] == [], setting
    assert [name for name in READERS if f"| `{name}` |" not in layouts] == []
    assert [name for name in METHODS if f"({name}.md)" not in overview or f"methods/{name}.md" not in contents] == []


def test_the_example_of_a_loss_learns_its_bias_from_the_start_that_it_says():
    assert find_loss(f"{EXAMPLES / 'own_loss.py'}:LOSS").parameters == {"bias": -10.0}
    assert _flags("extend/loss.md") == ["--distill.loss", "own_loss.py:LOSS"]


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path):
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site/methods/repblend/index.html").read_text(encoding="utf-8")
    assert "<math" in page
    assert "cdn" not in page


@pytest.mark.slow
def test_the_tutorial_runs_as_written(tmp_path: Path):
    """Some minutes: features of 677 pictures, a distillation with pixels, a sweep of three trials."""
    script = "set -euo pipefail\n" + "\n".join(blocks("tutorial.md", "sh"))
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "COLUMNS": "200"}
    began = time.monotonic()
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    print(f"the tutorial took {time.monotonic() - began:.0f} s")
    for name in ("report.html", "dataset/README.md", "student/heads.safetensors", "pictures/images/000.png"):
        assert (tmp_path / name).is_file(), name
    assert "photographs searched by a student of 20 pairs from stamps" in done.stdout


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path):
    jupytext = pytest.importorskip("jupytext")
    client = pytest.importorskip("nbclient")
    notebook = jupytext.read(DOCS / "notebook.md")
    client.NotebookClient(notebook, timeout=1800, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = "".join(
        output["text"]
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if output.get("name") == "stdout"
    )
    assert "494 train" in printed
    assert "'r_mean'" in printed
    assert re.search(r"modality gap \d\.\d{3}", printed)


@pytest.mark.parametrize("page", sorted((DOCS / "extend").glob("*.md")), ids=lambda page: page.stem)
def test_a_page_on_adding_to_raydd_shows_its_example(page: Path):
    included = re.findall(r'^--8<-- "(.+)"$', page.read_text(encoding="utf-8"), re.MULTILINE)
    assert included or page.stem == "index"
    assert all((ROOT / file).is_file() for file in included)


def _flags(page: str) -> list[str]:
    (command,) = blocks(page, "sh")
    return command.split("raydd run ")[1].split()


def test_the_examples_of_the_python_reference_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made = made_set()
    monkeypatch.chdir(tmp_path)
    Path("flickr8k.yaml").write_text(to_yaml(made.config), encoding="utf-8")
    Path("store").symlink_to(made.home / "store")
    names = dict[str, Any]()
    for block in blocks("reference/python.md", "python"):
        exec(block, names)
    assert names["opened"].title == "6 pairs from tiny"
    assert names["scores"].mean["r_mean"] > 0


def test_the_python_reference_names_functions_and_classes():
    page = (DOCS / "reference/python.md").read_text(encoding="utf-8")
    shown = re.findall(r"^::: (\S+)$", page, re.MULTILINE)
    assert [name for name in shown if not callable(pkgutil.resolve_name(name))] == []
