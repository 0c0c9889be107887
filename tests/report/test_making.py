"""The page of a real small set, from its folder to HTML."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml
from made_sets import ENCODERS, flags, made_set
from optuna.trial import TrialState

import raydd
from raydd import stages
from raydd.cli import main
from raydd.code_version import code_version
from raydd.evaluate.published import published_on
from raydd.place import study_address
from raydd.progress import silent
from raydd.report.gallery import AMPLIFIED
from raydd.report.making import report_of_sweep
from raydd.report.set_page import cells
from raydd.report.sets import PageOptions
from raydd.sets.read import open_set
from raydd.settings import load, to_yaml, with_settings
from raydd.tuning import study as studies
from raydd.tuning.results import SETTINGS
from search_spaces import load_space


class Seen(HTMLParser):
    """What a page holds, by tag."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: dict[str, list[dict[str, str | None]]] = {}
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.setdefault(tag, []).append(dict(attrs))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    made, out = made_set(), tmp_path_factory.mktemp("page") / "set.html"
    assert main(["report", "--set", str(made.folder), "--out", str(out), *flags(made)]) == 0
    return out.read_text(encoding="utf-8")


def test_the_page_needs_nothing_beside_it(page: str):
    seen = Seen(page.replace(page[page.index("<script>") : page.rindex("</script>")], ""))
    assert all(str(image["src"]).startswith("data:image/webp") for image in seen.tags["img"])
    assert not seen.tags.get("link")
    assert not any("src" in script for script in seen.tags["script"])


def test_every_pair_has_its_three_pictures_with_words_and_a_slider(page: str):
    seen = Seen(page)
    assert len(seen.tags["img"]) == 6 * (2 + 3)  # on the first screen, and with the slider
    assert all(image["alt"] for image in seen.tags["img"])
    assert len([one for one in seen.tags["input"] if one["type"] == "range"]) == 6 + 1
    assert len(seen.tags["article"]) == 6


def test_the_page_says_how_much_differences_are_amplified(page: str):
    assert len(re.findall(rf"change . {AMPLIFIED}, [\d.]+ of 255", page)) == 6
    assert f"amplified {AMPLIFIED} times" in page


def test_the_set_stands_beside_its_baselines(page: str):
    rows = re.findall(r'<tr class="(\w+)"><th scope="row" class="words">([^<]+)', page)
    assert {("ours", "6 synthetic pairs"), ("baseline", "6 random real pairs"), ("baseline", "all real pairs")} == set(
        rows
    )


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("evaluate.choice", "best-on-split", "Best of 6 checks of each student on test, the split that is scored"),
        ("students.epochs", 9, "nothing is chosen on test, the split that is scored"),
    ],
)
def test_the_set_is_scored_as_its_baselines_are_and_the_page_says_how(
    tmp_path: Path, name: str, value: object, told: str
):
    made, out = made_set(), tmp_path / "set.html"
    flag = f"--{name}", str(value)
    assert main(["report", "--set", str(made.folder), "--out", str(out), *flags(made, *flag)]) == 0
    page = out.read_text(encoding="utf-8")
    work = raydd.open(with_settings(made.config, {name: value}), made.store)
    scores = stages.score_students(work, open_set(made.folder).synthetic, split="test", seeds=range(2)).as_json()
    row = page[page.index('words">6 synthetic pairs') :]
    assert re.findall(r"<td>([^<]+)</td>", row[: row.index("</tr>")]) == [*cells(scores).values()]
    assert told in page
    assert "every choice was made on val" not in page


def test_the_page_begins_with_the_share_of_full_data_and_six_pairs(page: str):
    head = page[: page.index("<nav")]
    assert re.search(r'class="lead">6 synthetic pairs keep \d+ % of what \d+ real pairs give; random pairs', head)
    assert head.count("<img") == 6 * 2


def test_maps_collapse_measures_and_the_way_back_are_there(page: str):
    for text in ("At the start: real pairs", "At the end: synthetic pairs", "modality_gap", "data fingerprint"):
        assert text in page
    assert "target_epochs: 1" in page  # the configuration


def test_the_page_says_which_code_made_the_set_and_the_page(page: str):
    facts = dict(re.findall(r"<dt>([^<]+)</dt><dd>([^<]+)</dd>", page))
    assert facts["made by raydd"] == facts["page made by raydd"] == code_version()


@pytest.mark.parametrize("ended", [True, False])
def test_the_page_of_a_sweep_has_the_settings_that_the_sweep_was_started_with(tmp_path: Path, ended: bool):
    made = made_set()
    here = {"sweep.name": "found", "place.home": str(tmp_path), "place.store": made.store.root, "place.mlflow": "none"}
    started = {"sweep.space": "demo", "sweep.trials": 6, "sweep.finalists": 1, "sweep.first": False}
    config = with_settings(made.config, {**here, **started})
    study = studies.open_study(config, load_space("demo"), study_address(config.place))
    for state in (TrialState.COMPLETE, TrialState.FAIL):
        trial = study.ask()
        trial.set_user_attr(studies.SETTINGS, {})
        trial.set_user_attr(studies.REPORT, {"record": f"synthetic/{made.folder.name}"})
        study.tell(trial, 50.0 if state == TrialState.COMPLETE else None, state)
    if ended:
        (tmp_path / "sweeps" / "found").mkdir(parents=True)
        (tmp_path / "sweeps" / "found" / SETTINGS).write_text(to_yaml(config))
    page = report_of_sweep(load(settings=here), PageOptions(), silent, use_stored_settings=True)
    again = yaml.safe_load(page.configuration)
    assert again["sweep"]["space"] == "demo"
    assert again["distill"]["pairs"] == 6
    trials = 6 if ended else 1  # while it runs, those that are complete; a failed one does not count
    assert page.commands == (f"raydd sweep --config FILE.yaml --sweep.name found --sweep.trials {trials}",)
    assert again["sweep"]["trials"] == trials
    assert again["sweep"]["finalists"] == (1 if ended else 2)


def test_a_set_of_other_data_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    made = made_set()
    other = ["--data.reader", "stamps", "--place.home", str(made.home), *ENCODERS]
    assert main(["report", "--set", str(made.folder), "--out", str(tmp_path / "x.html"), *other]) == 2
    assert "The set was made from tiny" in capsys.readouterr().err


def test_a_folder_without_a_set_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["report", "--set", str(tmp_path)]) == 2
    assert "is not a synthetic set" in capsys.readouterr().err


def test_a_sweep_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["report", "--sweep.name", "nothing", "--place.home", str(tmp_path)]) == 2
    assert "There is no sweep 'nothing'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("data", "known"), [("flickr30k", True), ("coco2014", True), ("coconut", False), ("stamps", False)]
)
def test_published_rows_are_those_of_the_data_at_the_nearest_budget(data: str, known: bool):
    rows = published_on(data, 99)
    assert bool(rows) == known
    assert {row.pairs for row in rows} <= {100, 0}
