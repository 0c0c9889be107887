"""Rows of the leaderboard: complete, as raydd wrote them, and those of ours as the pages that they were copied from."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from leaderboard_rows import read_rows
from made_sets import ENCODERS, made_set

from raydd.cli import main
from raydd.errors import ConfigError
from raydd.evaluate.retrieval import SHOWN

ROOT = Path(__file__).parents[2]
ROWS = ROOT / "docs/leaderboard.yaml"


def test_every_row_is_complete_and_its_figures_are_on_the_page_that_it_names():
    rows = read_rows(ROWS)
    assert len(rows) > 10
    for row in rows:
        if row.source.startswith("docs/"):
            lines = (ROOT / row.source).read_text(encoding="utf-8").splitlines()
            shown = [f"{mean} ± {std}" for mean, std in filter(None, row.scores.values())]
            assert any(all(score in line for score in shown) for line in lines), row.set
        else:
            assert row.source.startswith("https://")
            assert row.fingerprint


def test_what_raydd_writes_is_a_row_once_it_says_where_the_set_is(tmp_path: Path):
    made = made_set("features")
    out, rows = tmp_path / "out.json", tmp_path / "rows.yaml"
    assert main(["evaluate", "--set", str(made.folder), *ENCODERS, "--evaluate.baselines", "--json", str(out)]) == 0
    row = json.loads(out.read_text())["row"]
    rows.write_text(json.dumps([row]))  # JSON is YAML
    with pytest.raises(ConfigError, match="row 1 does not say where to get the set"):
        read_rows(rows)
    rows.write_text(json.dumps([row | {"source": "https://example.org"}]))
    (found,) = read_rows(rows)
    assert set(found.scores) == set(SHOWN)
    assert (found.pairs, found.seeds, found.data, found.protocol) == (6, 2, "tiny", "heads")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pairs": None}, "row 1: pairs"),
        ({"seeds": 0}, "row 1: seeds"),
        ({"split": "train"}, "row 1: split"),
        ({"date": "yesterday"}, "row 1: date"),
        ({"scores": {"r_mean": [50.0, 1.0]}}, "has no score IR@1, IR@5"),
        ({"scores": dict.fromkeys(SHOWN)}, "has no score r_mean"),
        ({"scores": {metric: [101.0, 1.0] for metric in SHOWN}}, "row 1: scores.IR@1"),
        ({"source": ""}, "does not say where to get the set"),
    ],
)
def test_a_row_that_lacks_something_is_named(tmp_path: Path, change: dict[str, Any], said: str):
    row = yaml.safe_load(ROWS.read_text(encoding="utf-8"))[-1] | change
    (tmp_path / "rows.yaml").write_text(yaml.safe_dump([row]))
    with pytest.raises(ConfigError, match=said):
        read_rows(tmp_path / "rows.yaml")
    (tmp_path / "rows.yaml").write_text("a: 1")
    with pytest.raises(ConfigError, match="must be a list of rows"):
        read_rows(tmp_path / "rows.yaml")


def test_every_field_of_a_row_is_required(tmp_path: Path):
    row = yaml.safe_load(ROWS.read_text(encoding="utf-8"))[0]
    for name in row:
        (tmp_path / "rows.yaml").write_text(yaml.safe_dump([{key: row[key] for key in row if key != name}]))
        with pytest.raises(ConfigError, match=rf"row 1: {name}"):
            read_rows(tmp_path / "rows.yaml")
