"""The table's signs and columns, on rows that are made up."""

import csv
from pathlib import Path

import numpy as np

from raydd.code_version import code_version
from raydd.compare.plans import plan_of
from raydd.compare.rows import MadeSet, Row
from raydd.compare.table import write_comparison
from raydd.config import Config
from raydd.evaluate.retrieval import METRICS, SHOWN

CURVE = [
    {"step": step, "cpu_seconds": 2.0 * step, "seconds": 1.0 * step, "r_mean": 10.0 + step} for step in (2, 4, 6, 8)
]


def row(method: str, *r_means: float, without: int = -1, data: str = "data", variant: str = "", pairs: int = 9) -> Row:
    """A row of sets with these scores in every metric; `without` is one that failed."""
    sets = [
        MadeSet(number, [dict.fromkeys(METRICS, value)] * 2, 8, 3.0, 5.0, 2**20, 1234, 5000, f"set/{number}", (), CURVE)
        for number, value in enumerate(r_means)
        if number != without
    ]
    return Row(plan_of(Config(), method, data, pairs, variant, {}), sets, (1.0, 99.0))


def written(folder: Path, *rows: Row) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """The lines of the Markdown table and of the CSV, by method."""
    write_comparison(rows, {}, folder)
    lines = [line for line in (folder / "compare.md").read_text().splitlines() if line.startswith("| ")]
    own = [line for line in csv.DictReader((folder / "compare.csv").open()) if line["made by"] == "raydd"]
    return {line.split("|")[1].strip(): line for line in lines}, {line["method"]: line for line in own}


def test_rows_are_said_to_be_alike_by_their_sets_alone(tmp_path: Path) -> None:
    best, near, far = (30.0, 31.0, 32.0, 33.0), (30.1, 30.8, 32.1, 32.7), (28.0, 29.1, 29.9, 31.2)
    lines, records = written(tmp_path, row("lors", *best), row("repblend", *near), row("mtt-vl", *far))
    assert "**31.5 ± 1.3**" in lines["lors"]
    assert ("≈" in lines["repblend"], "≈" in lines["mtt-vl"]) == (True, False)
    assert (
        float(records["mtt-vl"]["p against best r_mean"]) < 0.05 < float(records["repblend"]["p against best r_mean"])
    )


def test_one_set_shows_no_sign(tmp_path: Path) -> None:
    lines, records = written(tmp_path, row("lors", 30.0), row("repblend", 29.99))
    assert "30.0 |" in lines["repblend"]
    assert not any(sign in lines[name] for sign in "≈±↗" for name in lines)
    assert records["repblend"]["p against best r_mean"] == records["lors"]["r_mean std"] == ""


def test_sets_of_other_seeds_are_not_paired_and_such_rows_are_marked(tmp_path: Path) -> None:
    lines, records = written(
        tmp_path, row("lors", 30.0, 31.0, 32.0, without=1), row("repblend", 30.0, 31.0, 32.0, without=2)
    )
    assert not any("≈" in line for line in lines.values())
    assert [line.count("°") for line in lines.values()] == [0, 0, len(SHOWN)]  # the heading, the best, the other
    assert records["repblend"]["p against best r_mean"] == ""


def test_a_failed_set_of_the_best_row_leaves_the_others_tested(tmp_path: Path) -> None:
    best, near, far = (30.0, 31.0, 32.0, 33.0), (30.1, 30.8, 32.1, 32.7), (28.0, 29.1, 29.9, 31.2)
    lines, _ = written(tmp_path, row("lors", *best, without=0), row("repblend", *near), row("mtt-vl", *far))
    assert ("≈" in lines["repblend"], "≈" in lines["mtt-vl"]) == (True, False)
    assert not any("°" in line for line in lines.values())


def test_budgets_and_the_rise_stand_in_every_row(tmp_path: Path) -> None:
    lines, records = written(tmp_path, row("lors", 30.0, 31.0))
    cells = [cell.strip() for cell in lines["lors"].split("|")[9:-1]]
    assert cells == ["1.0 to 99.0", "2", "8", "+2.0 ↗", "5", "3", "1", "1234", "5"]
    told = {name: records["lors"][name] for name in ("steps", "cpu seconds", "stored numbers", "still rose", "records")}
    assert told == {
        "steps": "8.0",
        "cpu seconds": "5.0",
        "stored numbers": "1234.0",
        "still rose": "True",
        "records": "set/0 set/1",
    }
    assert np.isclose(float(records["lors"]["r_mean low"]), 1)
    assert len(list(csv.DictReader((tmp_path / "curves.csv").open()))) == 8


def test_published_scores_stand_once_below_the_rows_of_their_method(tmp_path: Path) -> None:
    names = "tuned", "published settings"
    rows = [row("lors", 30.0, data="flickr8k", pairs=99, variant=variant) for variant in names]
    write_comparison([*rows, row("mtt-vl", 30.0, data="flickr8k", pairs=99)], {}, tmp_path)
    lines = [line for line in (tmp_path / "compare.md").read_text().splitlines() if line.startswith("| ")]
    heads = [line.split("|")[1].split(":")[0].strip() for line in lines[1:]]
    assert heads == ["lors, tuned", "lors, published settings", "‡ published", "mtt-vl", "‡ published"]
    made_by = [line["made by"][:9] for line in csv.DictReader((tmp_path / "compare.csv").open())]
    assert made_by == ["raydd", "raydd", "published", "raydd", "published"]


def test_a_table_says_with_what_it_was_made(tmp_path: Path) -> None:
    _, records = written(tmp_path, row("lors", 30.0, 31.0))
    said = "Encoders: efficientnet-lite0, minilm. Protocol of our rows: both encoders frozen, both heads trained."
    assert said in (tmp_path / "compare.md").read_text()
    assert said in (tmp_path / "compare.html").read_text()
    assert records["lors"]["table by raydd"] == code_version()


def test_names_and_reasons_are_text_in_the_page(tmp_path: Path) -> None:
    reason, name = "DataError: <b>a&b</b>.jpg is unreadable", "<script>alert(1)</script>"
    write_comparison([row("lors", 30.0, 31.0, data=name)], {"repblend, data, 10 pairs, set 0": reason}, tmp_path)
    page = (tmp_path / "compare.html").read_text()
    assert "<script>" not in page
    assert "<caption>&lt;script&gt;alert(1)&lt;/script&gt;, 10 pairs</caption>" in page
    assert "failed, DataError: &lt;b&gt;a&amp;b&lt;/b&gt;.jpg is unreadable</li>" in page
    assert reason in (tmp_path / "compare.md").read_text()
