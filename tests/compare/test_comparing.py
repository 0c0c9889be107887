"""A comparison on some pictures: tuned methods, selections, the files, and a second time nothing to do."""

import contextlib
import csv
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from claimant_alone import Alone
from rich.console import Console
from stage_settings import TINY

import raydd
from raydd import stages
from raydd.cluster import sharing
from raydd.cluster.environment import prepare_environment
from raydd.cluster.sharing import Shared
from raydd.compare import comparing, plan_table, tuned_rows
from raydd.compare.comparing import run_comparison
from raydd.compare.making import compare_set
from raydd.compare.plans import RowPlan, plan_of
from raydd.compare.rows import Row
from raydd.config import Config
from raydd.errors import ConfigError, TrialsError
from raydd.place import open_store
from raydd.protocols import PROTOCOLS
from raydd.settings import load, with_settings
from raydd.tuning import preparing
from raydd.tuning.finals import Candidate
from raydd.tuning.results import SweepResult

prepare_environment("local")


@pytest.fixture
def config(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))  # Ray's workers import the tiny encoders
    space = tmp_path / "mine.py"
    space.write_text(
        "from raydd.distill.methods import Method\n"
        "def space(trial):\n    trial.suggest_float('distill.image_lr', 0.1, 0.3)\n    return {}\n"
        "METHOD = Method(paper='', settings={'distill.similarity': 'low-rank'}, published={'distill.text_lr': 0.1},"
        f" space={str(space) + ':space'!r})\n"
    )
    settings: dict[str, Any] = {
        **TINY,
        "data.root": str(tiny_data),
        "distill.images": "features",
        "compare.methods": ("herding", f"{space}:METHOD", "full"),
        "compare.pairs": (5, 6),
        "compare.trials": 2,
        "compare.sets": 2,
        "compare.checks": 4,
        "place.home": str(tmp_path / "home"),
        "place.mlflow": "none",
    }
    return with_settings(Config(), settings)


def quiet() -> Console:
    return Console(file=io.StringIO(), width=160)


def told(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.slow
def test_every_row_is_made_once_and_written_three_ways(config: Config, tmp_path: Path) -> None:
    first = quiet()
    result = run_comparison(config, "local", dry_run=False, console=first)
    assert result is not None
    assert result.failed == {}
    assert re.search(r"^\d+/13 sets(, \d.* left)?; ", told(first), re.MULTILINE)  # and what is made just then
    names = ["herding", "mine.py:METHOD, tuned", "mine.py:METHOD, published settings"]
    assert [row.plan.name for row in result.rows] == [*names, "full", *names]
    assert [row.plan.config.distill.pairs for row in result.rows if row.plan.name == "herding"] == [6, 7]
    assert [row.plan.config.distill.pairs for row in result.rows if row.plan.name == names[1]] == [5, 6]
    folder = tmp_path / "home" / "comparisons" / "compare"
    tuned = [load(file).distill for file in (folder / f"tiny-mine.py-METHOD-{pairs}.yaml" for pairs in (6, 7))]
    assert [row.plan.config.distill for row in result.rows if row.plan.variant == "tuned"] == tuned
    sweeps = sorted(sweep.name for sweep in (tmp_path / "home" / "sweeps").iterdir())
    assert [re.sub("-[0-9a-f]+$", "", name) for name in sweeps] == [f"compare-tiny-mine.py-METHOD-{n}" for n in (6, 7)]
    assert [len(row.sets) for row in result.rows] == [2, 2, 2, 1, 2, 2, 2]
    assert all(made.stored_bytes > 4 and (made.peak_bytes or 1e9) > 1e7 for row in result.rows for made in row.sets)
    for row in result.rows:
        assert row.interval[0] <= row.mean("r_mean") <= row.interval[1]
        assert all(len(made.students) == 2 for made in row.sets)
        if row.plan.kind == "synthetic":
            assert len({made.record for made in row.sets}) == 2
            assert (row.cost("steps"), bool(row.cost("cpu_seconds"))) == (8, True)
    again = quiet()
    second = run_comparison(config, "local", dry_run=False, console=again)
    assert second == result
    assert "9 of 13 sets" in told(again)  # and two rows whose settings the plan does not know
    assert "**" in (folder / "compare.md").read_text()
    assert (folder / "compare.html").read_text().count("<table") == 2
    collapse = list(csv.DictReader((folder / "collapse.csv").open()))
    assert {line["row"] for line in collapse} == set(names[1:])
    assert float(collapse[0]["step"]) == 0
    curves = list(csv.DictReader((folder / "curves.csv").open()))
    assert {(line["row"], line["pairs"], line["set"], line["step"]) for line in curves} == {
        (name, pairs, number, step) for name in names[1:] for pairs in "67" for number in "01" for step in "2468"
    }
    assert all(len(row.rises) == 2 for row in result.rows if row.plan.kind == "synthetic")
    lines = list(csv.DictReader((folder / "compare.csv").open()))
    assert len([line for line in lines if line["made by"] == "raydd"]) == 7
    assert [line["r_mean std"] == "" for line in lines] == [len(row.sets) == 1 for row in result.rows]
    assert stages.synthetic_scores(raydd.open(result.rows[1].plan.config)).seeds == tuple(
        result.rows[1].sets[0].students
    )


def test_the_plan_is_shown_without_any_work(config: Config, tmp_path: Path) -> None:
    console = quiet()
    assert run_comparison(config, "local", dry_run=True, console=console) is None
    assert "7: herding" in told(console)
    assert "2 trials each of" in told(console)
    assert not (tmp_path / "home" / "store" / "features").exists()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (
            {"compare.methods": ("random", "repblent")},
            "compare.methods has 'repblent', which is unknown. Did you mean ",
        ),
        (
            {"compare.methods": ("hearding",)},
            "compare.methods has 'hearding', which is unknown. Did you mean 'herding'",
        ),
        ({"compare.pairs": (13,)}, "compare.pairs asks for 14 pairs (one more where no similarity matrix is learned)"),
    ],
)
def test_a_wrong_row_is_told_before_any_work(config: Config, wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        run_comparison(with_settings(config, wrong), "local", dry_run=False, console=quiet())


def test_two_settings_of_one_data_set_are_refused_before_any_work(config: Config, tmp_path: Path) -> None:
    files = [tmp_path / "small.yaml", tmp_path / "large.yaml"]
    for file, width in zip(files, (8, 16), strict=True):
        file.write_text(f"experts: {{width: {width}}}\n")
    config = with_settings(config, {"compare.data": tuple(map(str, files))})
    with pytest.raises(ConfigError, match=r"small\.yaml and .*large\.yaml of compare\.data are both called 'tiny'"):
        run_comparison(config, "local", dry_run=True, console=quiet())


def test_two_methods_of_one_name_are_refused_before_any_work(config: Config, tmp_path: Path) -> None:
    ours = tmp_path / "mine.py"
    other = tmp_path / "other" / "mine.py"
    other.parent.mkdir()
    other.write_text(ours.read_text())
    config = with_settings(config, {"compare.methods": (f"{ours}:METHOD", f"{other}:METHOD")})
    with pytest.raises(ConfigError, match=r"mine\.py:METHOD and .*other/mine\.py:METHOD of compare\.methods"):
        run_comparison(config, "local", dry_run=True, console=quiet())


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the rows that a comparison comes to make; without Ray, features and rows."""
    names: list[str] = []

    def make(plans: Sequence[RowPlan], *_: object) -> list[Row]:
        names.extend(plan.name for plan in plans)
        return []

    monkeypatch.setattr(comparing, "make_rows", make)
    monkeypatch.setattr(comparing, "cluster", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(comparing, "require_room", lambda *_: None)
    monkeypatch.setattr(comparing, "prepare", lambda *_: None)
    monkeypatch.setattr(plan_table, "is_made", lambda *_: False)
    monkeypatch.setattr(comparing, "write_comparison", lambda *_: [])
    return names


def a_sweep(config: Config, best: Candidate | None, failed: Mapping[int, str]) -> SweepResult:
    return SweepResult(config.sweep.name, config, ("r_mean",), {}, {}, failed, {}, (), best, (), {})


@pytest.mark.parametrize("way", ["equal failures", "none complete"])
def test_a_method_whose_trials_fail_is_named_and_the_others_are_compared(
    way: str, config: Config, made: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sweep(config: Config, *_: object, **__: object) -> SweepResult:
        if "lors" in config.sweep.name:
            return a_sweep(config, Candidate(0, {}, 30.0, (), math.nan), {})  # a space that searches nothing
        if way == "equal failures":
            raise TrialsError("2 trials in a row failed")
        return a_sweep(config, None, {0: "NonFiniteError: the loss is nan"})

    monkeypatch.setattr(tuned_rows, "run_sweep", sweep)
    mine = f"{tmp_path / 'mine.py'}:METHOD"
    config = with_settings(config, {"compare.methods": ("herding", mine, "lors"), "compare.pairs": (5,)})
    console = quiet()
    result = run_comparison(config, "local", dry_run=False, console=console)
    assert result is not None
    assert made == ["herding", "mine.py:METHOD, published settings", "lors, tuned", "lors, published settings"]
    (row,) = result.failed
    assert row == "mine.py:METHOD, tuned, tiny, 6 pairs"
    assert ("2 trials in a row" if way == "equal failures" else "the loss is nan") in result.failed[row]
    assert "mine.py:METHOD, tuned, 6 pairs failed: " in told(console)
    folder = tmp_path / "home" / "comparisons" / "compare"
    assert [file.name for file in folder.iterdir()] == ["tiny-lors-6.yaml"]


def test_rows_get_no_gpu_that_torch_cannot_use(
    config: Config, made: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    @contextlib.contextmanager
    def faulty_held() -> Iterator[None]:
        events.append("held")
        yield
        events.append("free")

    monkeypatch.setattr(preparing, "usable_cards", list)
    monkeypatch.setattr(preparing, "faults", lambda: ["b cannot compute on the device cuda:0"])
    monkeypatch.setattr(preparing, "faulty_held", faulty_held)
    monkeypatch.setattr(comparing, "require_room", lambda cpus, gpus, held: events.append(f"{cpus:g} {gpus:g}"))
    monkeypatch.setattr(comparing, "make_rows", lambda *_: events.append("rows") or [])
    console = quiet()
    config = with_settings(config, {"sweep.gpus": -1.0, "compare.methods": ("herding",)})
    run_comparison(config, "local", dry_run=False, console=console)
    assert events == ["held", "1 1", "rows", "free"]
    assert "not used: b cannot compute" in told(console)


def test_trials_have_a_seed_that_no_set_has(
    config: Config, made: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def swept(config: Config) -> Config:
        sweeps: list[Config] = []

        def sweep(config: Config, *_: object, **__: object) -> SweepResult:
            sweeps.append(config)
            return a_sweep(config, Candidate(0, {"distill.image_lr": 0.2}, 30.0, (), math.nan), {})

        monkeypatch.setattr(tuned_rows, "run_sweep", sweep)
        run_comparison(config, "local", dry_run=False, console=quiet())
        assert "mine.py:METHOD, tuned" in made
        return sweeps[0]

    config = with_settings(config, {"distill.seed": 7})
    trials, more = swept(config), swept(with_settings(config, {"compare.sets": 4}))
    assert trials.distill.seed == more.distill.seed >= 7 + 1000
    assert trials.sweep.name == more.sweep.name  # further sets need no further trials
    kept = (tmp_path / "home" / "comparisons" / "compare").glob("*.yaml")
    assert [load(file).distill.seed for file in kept] == [7, 7]
    monkeypatch.setattr(tuned_rows, "TRIALS_SEED", 0)
    assert swept(config).sweep.name != trials.sweep.name  # so no study goes on with trials of two seeds


@pytest.mark.parametrize(("method", "missing"), [("full", {2, 3}), ("lors", set())])
def test_only_distillations_make_their_experts(
    method: str, missing: set[int], config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "Claimant", lambda *_: Alone())
    config = with_settings(config, {"experts.count": 4})
    plan = plan_of(config, method, "tiny", 5, "", {})
    made = compare_set(plan, 0, Shared("comparison", {}, None))
    assert len(made.students) == 2
    left = set(raydd.open(plan.config, open_store(config.place)).missing_experts)
    assert left >= missing  # full data trains an expert for each of the two students
    assert bool(left) == bool(missing)


def test_the_plan_says_what_it_leaves_out_where_the_image_encoder_is_trained(config: Config) -> None:
    trained = {"distill.protocol": "encoder", "distill.gradient": "constant-memory", "distill.images": "pixels"}
    console = quiet()
    assert run_comparison(with_settings(config, trained), "local", dry_run=True, console=console) is None
    assert "herding, for tiny, image encoder trained: they choose by features" in told(console)
    assert "tiny, image encoder trained: methods use the given settings" in told(console)
    assert "trials each of" not in told(console)


def test_the_plan_says_how_many_sets_and_students_the_rows_of_each_file_have(config: Config, tmp_path: Path) -> None:
    trained = "distill: {protocol: encoder, gradient: constant-memory, images: pixels}\n"
    files = []
    for sets, seeds, text in ((1, 2, ""), (3, 5, trained)):
        files.append(tmp_path / f"{sets}.yaml")
        files[-1].write_text(f"{text}compare: {{sets: {sets}}}\nevaluate: {{seeds: {seeds}}}\n")
    config, console = with_settings(config, {"compare.data": tuple(map(str, files))}), quiet()
    assert run_comparison(config, "local", dry_run=True, console=console) is None
    assert "1 for each row, 1 for full data; 3 for each row, 1 for full data" in told(console)
    assert re.search(r"2 for each set, .*; 5 for each set, ", told(console))


@pytest.mark.slow
def test_both_protocols_stand_in_one_comparison(config: Config, tmp_path: Path) -> None:
    files = []
    for protocol, extra in (("heads", ""), ("encoder", ", gradient: constant-memory, images: pixels")):
        files.append(tmp_path / f"{protocol}.yaml")
        files[-1].write_text(f"distill: {{protocol: {protocol}{extra}}}\n")
    config = with_settings(
        config,
        {
            "compare.data": tuple(map(str, files)),
            "compare.methods": ("random", "herding", "lors", "full"),
            "compare.pairs": (6,),
            "compare.trials": 0,
            "compare.sets": 1,
            "compare.checks": 0,
        },
    )
    result = run_comparison(config, "local", dry_run=False, console=quiet())
    assert result is not None
    assert result.failed == {}
    made = [(row.plan.data, row.plan.method) for row in result.rows]
    trained = "tiny, image encoder trained"
    assert made == [("tiny", method) for method in ("random", "herding", "lors", "full")] + [
        (trained, method)
        for method in ("random", "lors", "full")  # nothing is selected by features that change
    ]
    by_row = dict(zip(made, result.rows, strict=True))
    assert by_row["tiny", "lors"].by_set("r_mean") != by_row[trained, "lors"].by_set("r_mean")
    assert by_row[trained, "random"].sets[0].stored_bytes == 7 * (3 * 16**2 + 4 * 10)
    lines = list(csv.DictReader((tmp_path / "home/comparisons/compare/compare.csv").open()))
    assert {line["protocol"] for line in lines if line["made by"] == "raydd"} == {
        work.trains for work in PROTOCOLS.values()
    }
