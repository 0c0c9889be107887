import json
from pathlib import Path

import pandas as pd
import pytest

from raydd.compare.page import comparison_page
from raydd.compare.table import write_comparison
from raydd.errors import RecordError
from raydd.report.page import METRICS, render


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    common = {
        "data": "flickr8k",
        "image encoder": "lite0",
        "text encoder": "minilm",
        "split": "test",
        "sets": 5,
        "students each": 5,
    }
    scores = dict.fromkeys(METRICS, 30.0) | {f"{metric} std": 0.5 for metric in METRICS}
    ours = {**common, **scores, "made by": "raydd", "protocol": "B"}
    ours |= {"records": "synthetic/0 synthetic/1", "r_mean low": 29.0, "r_mean high": 31.0}
    rows = [
        {**ours, "method": "lors", "budget": 99, "seconds": 50.0, "cpu seconds": 90.0, "stored bytes": 6e5},
        {
            **ours,
            "method": "repblend",
            "budget": 99,
            "r_mean": 33.0,
            "seconds": 40.0,
            "cpu seconds": 70.0,
            "stored bytes": 6e5,
        },
        {**ours, "method": "full", "budget": None, "r_mean": 41.0, "r_mean std": None, "sets": 1, "seconds": 10.0},
        {**common, **scores, "made by": "published: Table 1", "method": "lors", "budget": 99, "protocol": "A"},
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "compare.csv", index=False)
    points = [
        {
            "data": "flickr8k",
            "pairs": 99,
            "row": row,
            "set": number,
            "step": step,
            "collapse/modality_gap": 0.1 * step + number,
        }
        for row in ("a", "b")
        for number in (0, 1)
        for step in (1, 2)
    ]
    pd.DataFrame(points).to_csv(tmp_path / "collapse.csv", index=False)
    curve = [point | {"cpu_seconds": 3.0 * point["step"], "r_mean": 20.0 + point["set"]} for point in points]
    pd.DataFrame(curve).to_csv(tmp_path / "curves.csv", index=False)
    return tmp_path


def test_rows_of_ours_and_published_ones_are_told_apart(folder: Path):
    page = comparison_page(folder)
    assert [(row.name, row.kind) for row in page.results] == [
        ("lors", "ours"),
        ("repblend", "ours"),
        ("full", "baseline"),
        ("lors", "published"),
    ]
    assert "repblend with an r_mean of 33.0 percent" in page.lead
    assert page.results[1].scores["r_mean"] == "33.0 ± 0.5"
    assert page.results[2].scores["r_mean"] == "41.0"  # one set has no deviation
    assert page.provenance["records"] == "2"


def test_rows_whose_students_are_chosen_as_published_are_marked(folder: Path):
    table = pd.read_csv(folder / "compare.csv")
    assert "†" not in render(comparison_page(folder))
    table["students"] = ["published"] * 3 + [None]
    table.to_csv(folder / "compare.csv", index=False)
    page = comparison_page(folder)
    assert [row.name for row in page.results] == ["lors †", "repblend †", "full †", "lors"]
    assert "The best of 3 rows is repblend † with" in page.lead
    assert "† students chosen as the method's published code does: mostly the best of 6" in page.results_note


def test_costs_and_collapse_are_drawn(folder: Path):
    page = comparison_page(folder)
    assert [drawn.id for drawn in page.fronts] == ["front-seconds", "front-cpu", "front-stored"]
    assert "repblend 33.0 at 40" in page.fronts[0].summary
    assert [drawn.title for drawn in page.collapse] == ["modality gap"]
    assert "a: 0.700, b: 0.700" in page.collapse[0].summary  # the mean of both sets
    assert [drawn.title for drawn in page.convergence] == [
        "r_mean on val against distillation steps",
        "r_mean on val against CPU seconds",
    ]
    assert page.convergence[1].summary == "At the end, a: 20.5 after 6, b: 20.5 after 6 CPU seconds."
    assert 'id="convergence"' in render(page)
    assert "<h1>Comparison" in render(page)


def test_a_curve_runs_through_its_steps_though_a_set_lacks_a_check(folder: Path):
    points = [
        {
            "data": "flickr8k",
            "pairs": 99,
            "row": row,
            "set": number,
            "step": step,
            "cpu_seconds": step,
            "r_mean": 20 + step,
        }
        for row, number, step in (("b", 0, 2), ("b", 0, 3), ("b", 1, 1), ("b", 1, 2), ("b", 1, 3), ("a", 0, 1))
    ]
    pd.DataFrame(points).to_csv(folder / "curves.csv", index=False)
    steps, _ = comparison_page(folder).convergence
    assert steps.summary == "At the end, b: 23.0 after 3, a: 21.0 after 1 distillation steps."
    lines = [(line["name"], line["x"]) for line in json.loads(steps.figure)["data"]]
    assert lines == [("b", [1, 2, 3]), ("a", [1])]


def test_a_comparison_whose_first_set_failed_is_named_with_the_file_that_says_why(tmp_path: Path):
    write_comparison([], {"lors, data, 10 pairs, set 0": "NonFiniteError: loss is nan"}, tmp_path)
    with pytest.raises(RecordError, match=r"has no row yet. .*compare.md says what failed"):
        comparison_page(tmp_path)
    assert (
        tmp_path / "compare.md"
    ).read_text() == "- lors, data, 10 pairs, set 0: failed, NonFiniteError: loss is nan\n"


def test_what_was_never_compared_is_named(tmp_path: Path):
    with pytest.raises(RecordError, match="no comparison in"):
        comparison_page(tmp_path)
