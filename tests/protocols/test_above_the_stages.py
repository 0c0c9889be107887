"""Protocol A through every room above the stages: report, evaluate, export, search, doctor, features, experts."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from made_sets import ENCODERS, TRAINED, Made, flags, trained_set
from PIL import Image
from safetensors.torch import load_file

import raydd
from raydd import stages
from raydd.cli import main
from raydd.data import load_image_encoder
from raydd.errors import ConfigError
from raydd.evaluate.retrieval import METRICS
from raydd.progress import silent
from raydd.report.making import report_of_set
from raydd.report.sets import PageOptions
from raydd.sets.read import OpenedSet, open_set
from raydd.settings import load


@pytest.fixture(scope="module")
def made() -> Made:
    return trained_set()


@pytest.fixture(scope="module")
def opened(made: Made) -> OpenedSet:
    return open_set(made.folder)


@pytest.fixture(scope="module")
def given(made: Made) -> list[str]:
    """What a command needs beside the set: its encoders repeated, and the home."""
    return ["--set", str(made.folder), *ENCODERS, "--place.home", str(made.home)]


def settings(made: Made) -> list[str]:
    """All settings as flags."""
    return flags(made, *(part for name, value in TRAINED.items() for part in (f"--{name}", str(value))))


def test_the_page_shows_pairs_maps_and_collapse_in_the_trained_encoder_s_space(made: Made, opened: OpenedSet) -> None:
    page = report_of_set(made.folder, made.config, PageOptions(frames=2), silent)
    assert page.results_note.count("image encoder and text head trained") == 1
    assert "heads" not in page.results_note
    assert {row.kind for row in page.results} == {"ours", "baseline"}
    assert len(page.pairs) == len(opened.synthetic)
    assert page.collapse_table
    assert any(row["start"] != row["end"] for row in page.collapse_table)
    assert page.maps
    assert page.film.startswith("data:image/png")
    work = raydd.open(made.config, made.store)
    images, _ = work.embed(work.open_experts().snapshot(0, 1), opened.synthetic)
    gap = images.mean(0) - work.embed(work.open_experts().snapshot(0, 1), opened.synthetic)[1].mean(0)
    (measured,) = [row["end"] for row in page.collapse_table if row["name"] == "modality_gap"]
    assert measured == pytest.approx(float(gap.norm()), abs=1e-5)  # of the expert, not of the pretrained encoder


def test_the_report_command_writes_the_page(given: list[str], tmp_path: Path) -> None:
    assert main(["report", *given, "--out", str(tmp_path / "set.html")]) == 0
    page = (tmp_path / "set.html").read_text(encoding="utf-8")
    for text in ("image encoder and text head trained", "modality_gap", "protocol: encoder"):
        assert text in page


def _transfers(made: Made) -> set[Path]:
    return set((made.home / "store" / "transfers").glob("*/manifest.json"))


def test_every_row_of_an_evaluation_is_of_students_that_train_the_encoder(
    made: Made, given: list[str], tmp_path: Path
) -> None:
    rng, out = np.random.default_rng(1), tmp_path / "scores.json"
    for name in ("red", "blue", "green"):
        (tmp_path / "classes" / name).mkdir(parents=True)
        pixels = rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "classes" / name / "0.png")
    root = made.config.data.root
    (tmp_path / "other.yaml").write_text(f"data: {{reader: flat-json, name: tiny, root: {root}, seed: 1}}\n")
    asked = ["--evaluate.encoders", "tiny_encoders:wide", "tiny_encoders:image+tiny_encoders:letters"]
    asked += ["--evaluate.classes", str(tmp_path / "classes"), "--evaluate.unseen", str(tmp_path / "other.yaml")]
    others = _transfers(made)  # of other tests, which share the store
    assert main(["evaluate", *given, *asked, "--json", str(out)]) == 0
    found = json.loads(out.read_text())
    elsewhere = [f"{row}, {name}" for name in asked[1:3] for row in ("synthetic", "its photographs")]
    assert list(found["retrieval"]) == ["synthetic", "random", "full", *elsewhere, "synthetic, on all of other"]
    assert all(set(METRICS) <= set(row) for row in found["retrieval"].values())
    assert set(found["classes"]["synthetic"]) == {"ACC@1", "ACC@5"}
    run = stages.run(raydd.open(made.config, made.store))
    for row in ("synthetic", "random", "full"):  # the same numbers as the run that made it
        assert found["retrieval"][row]["r_mean"]["seeds"] == run[row]["r_mean"]["seeds"]
    named = [json.loads(manifest.read_text())["settings"] for manifest in _transfers(made) - others]
    assert {one["row"] for one in named} == {"pixels", "photographs", "classes", "unseen"}
    assert all(one["protocol"] == "encoder" for one in named)
    assert not (made.home / "store" / "features").exists()


@pytest.mark.parametrize("to", ["hf", "png", "webdataset"])
def test_a_data_card_says_which_encoder_students_train(given: list[str], tmp_path: Path, to: str) -> None:
    assert main(["export", *given, "--to", to, str(tmp_path)]) == 0
    card = (tmp_path / "README.md").read_text()
    assert "tiny_encoders:image (images), which students train, and tiny_encoders:text (texts), frozen" in card
    assert "trains the image encoder and a text head on them" in card
    assert "(image encoder)" in card
    assert "both frozen" not in card
    assert "projection heads" not in card


def test_the_card_s_code_loads_the_trained_encoder_and_the_text_head(
    made: Made, opened: OpenedSet, given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["export", *given, "--to", "head", str(tmp_path)]) == 0
    card = (tmp_path / "README.md").read_text()
    assert "image encoder and text head of a student" in card
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(card.split("```python\n")[1].split("```")[0], names)
    work = raydd.open(made.config, made.store)
    (student,) = work.train_students(opened.synthetic, [0])
    images, texts = work.embed(student, opened.synthetic)
    encoder = load_image_encoder(made.config.encoders, trained=True).module
    assert opened.synthetic.pixels is not None
    with torch.no_grad():
        before = torch.nn.functional.normalize(encoder(opened.synthetic.pixels / 255), dim=-1)
        encoder.load_state_dict(names["image_encoder"], strict=False)
        after = torch.nn.functional.normalize(encoder(opened.synthetic.pixels / 255), dim=-1)
        assert torch.allclose(after, images, atol=1e-5)
        assert not torch.allclose(before, images, atol=1e-3)
        assert torch.allclose(names["text_head"](opened.synthetic.text_features), texts, atol=1e-5)
    assert not any(name.startswith("image.") for name in load_file(tmp_path / "heads.safetensors"))


@pytest.mark.slow
def test_onnxruntime_embeds_as_the_trained_encoder_does(
    made: Made, opened: OpenedSet, given: list[str], tmp_path: Path
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    assert main(["export", *given, "--to", "onnx", str(tmp_path)]) == 0
    work = raydd.open(made.config, made.store)
    (student,) = work.train_students(opened.synthetic, [0])
    images, texts = work.embed(student, opened.synthetic)
    assert opened.synthetic.pixels is not None
    for file, name, rows, want in (
        ("image.onnx", "pixels", opened.synthetic.pixels.float() / 255, images),
        ("text_head.onnx", "text_features", opened.synthetic.text_features, texts),
    ):
        (got,) = onnxruntime.InferenceSession(tmp_path / file).run(["embedding"], {name: rows.numpy()})
        assert np.allclose(got, want.numpy(), atol=1e-4)


@pytest.mark.parametrize("query", ["some noise", "val3.png"])
def test_a_search_ranks_photographs_by_the_trained_encoder(
    made: Made, given: list[str], capsys: pytest.CaptureFixture[str], query: str
) -> None:
    pictures = Path(made.config.data.root) / "images"
    asked = str(pictures / query) if query.endswith(".png") else query
    assert main(["search", asked, *given, "--in", str(pictures), "--count", "3"]) == 0
    shown = capsys.readouterr().out
    assert shown.count(".png") == 3 + query.count(".png")
    if query.endswith(".png"):
        assert "1.000" in shown
        assert shown.index("val3.png", shown.index("photograph")) > 0


def test_the_doctor_counts_captions_and_the_encoder_s_weights(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", *settings(made)]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "The run can start." in shown
    assert f"{2 * 72 * 10 / 1000:.1f} kB of features (made)" in shown  # half-precision captions


def test_features_are_those_of_captions_alone(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    elsewhere = settings(made)
    elsewhere[elsewhere.index("--place.home") + 1] = str(tmp_path)
    assert main(["features", *elsewhere]) == 0
    assert "48 training captions, 10 wide. Images are not encoded beforehand" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "store").iterdir()} == {"pairs", "texts"}


def test_experts_say_what_they_take(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["experts", *settings(made)]) == 0
    assert "2 experts, snapshots after epochs [1]" in capsys.readouterr().out


def test_other_students_than_the_set_s_are_refused_before_any_work(
    given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (["report"], ["evaluate"], ["search", "noise"], ["export", "--to", "head", str(tmp_path / "out")]):
        assert main([*command, *given, "--distill.protocol", "heads"]) == 2
        said = capsys.readouterr().err
        assert "The set was made under distill.protocol encoder: a student of it trains the image encoder" in said
    assert not (tmp_path / "out").exists()


def test_a_sweep_over_what_the_encoder_has_no_features_for_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"distill\.start"):
        load(settings={"distill.protocol": "encoder", "distill.start": "herding"})
