"""Each export read back by its own library."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from made_sets import ENCODERS, flags, made_set
from PIL import Image
from safetensors.torch import load_file
from written_sets import folder_of, saved

import raydd
from raydd.cli import main
from raydd.code_version import code_version
from raydd.data import load_image_encoder
from raydd.distill.heads import Head, embed
from raydd.errors import RecordError
from raydd.export import exporting
from raydd.protocols import open_workbench
from raydd.sets.read import OpenedSet, open_set, stored_scores
from raydd.settings import load

ENCODER_SET = {"distill.protocol": "encoder", "distill.images": "pixels", "distill.pairs": 4}
Exported = Callable[[str], Path]


def student_of(opened: OpenedSet) -> list[Head]:
    """Both heads of the student that is exported."""
    ((image, text),) = raydd.open(made_set().config).train_students(opened.synthetic, [0])
    return [Head(*(part[0] for part in head)) for head in (image, text)]


@pytest.fixture(scope="module")
def opened() -> OpenedSet:
    return open_set(made_set().folder)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    def write(to: str) -> Path:
        folder = tmp_path_factory.mktemp(to)
        made = made_set()
        assert main(["export", "--set", str(made.folder), "--to", to, str(folder), *flags(made)]) == 0
        return folder

    return write


def test_datasets_loads_it_offline(exported: Exported, opened: OpenedSet, monkeypatch: pytest.MonkeyPatch, tmp_path):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pairs = datasets.load_dataset(str(exported("hf")), split="train", cache_dir=str(tmp_path))
    assert len(pairs) == 6
    assert opened.synthetic.pixels is not None
    for number, pair in enumerate(pairs):
        assert np.array_equal(np.asarray(pair["image"]).transpose(2, 0, 1), opened.synthetic.pixels[number].numpy())
        assert np.array_equal(np.float32(pair["text_feature"]), opened.synthetic.text_features[number].numpy())
        assert pair["nearest_captions"] == opened.rows[number]["nearest_captions"]
    matrix = np.float32(pairs["similarity"][:])
    assert np.array_equal(matrix, opened.synthetic.similarity.matrix().numpy())


def test_webdataset_reads_its_shard(exported: Exported, opened: OpenedSet):
    webdataset = pytest.importorskip("webdataset")
    shard = exported("webdataset") / "pairs-000000.tar"
    pairs = list(webdataset.WebDataset(str(shard), shardshuffle=False).decode("pil"))
    assert [pair["json"]["pair"] for pair in pairs] == list(range(6))
    assert opened.synthetic.pixels is not None
    for pair, pixels, features in zip(pairs, opened.synthetic.pixels, opened.synthetic.image_features, strict=True):
        assert np.array_equal(np.asarray(pair["png"]).transpose(2, 0, 1), pixels.numpy())
        assert np.array_equal(pair["image_feature.npy"], features.numpy())
        assert pair["txt"] == opened.rows[pair["json"]["pair"]]["nearest_captions"][0]


def test_pictures_and_words_are_plain_files(exported: Exported, opened: OpenedSet):
    folder = exported("png")
    rows = json.loads((folder / "pairs.json").read_text())
    assert opened.synthetic.pixels is not None
    for row, pixels in zip(rows, opened.synthetic.pixels, strict=True):
        assert np.array_equal(np.asarray(Image.open(folder / row["image"])).transpose(2, 0, 1), pixels.numpy())
    assert rows[2]["start_caption"] == opened.rows[2]["start_caption"]


def test_the_card_s_own_code_loads_heads_that_embed_as_the_student_does(
    exported: Exported, opened: OpenedSet, monkeypatch: pytest.MonkeyPatch
):
    folder = exported("head")
    code = (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    lines = [line for line in code.splitlines() if line.strip() and not line.startswith(("import", "from", "class"))]
    assert len(lines) <= 13
    monkeypatch.chdir(folder)
    names: dict = {}
    exec(code, names)
    image, text = student_of(opened)
    with torch.no_grad():
        for loaded, head, rows in (
            (names["image_head"], image, opened.synthetic.image_features),
            (names["text_head"], text, opened.synthetic.text_features),
        ):
            assert torch.allclose(loaded(rows), embed(head, rows), atol=1e-6)


@pytest.mark.slow
def test_onnxruntime_embeds_as_torch_does(exported: Exported, opened: OpenedSet):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    folder, config = exported("onnx"), made_set().config
    image, text = student_of(opened)
    encoder = load_image_encoder(config.encoders)
    assert opened.synthetic.pixels is not None
    pixels = opened.synthetic.pixels.float() / 255
    with torch.no_grad():
        wanted = embed(image, encoder.module(pixels)), embed(text, opened.synthetic.text_features)
    for file, name, given, want in (
        ("image.onnx", "pixels", pixels, wanted[0]),
        ("text_head.onnx", "text_features", opened.synthetic.text_features, wanted[1]),
    ):
        (got,) = onnxruntime.InferenceSession(folder / file).run(["embedding"], {name: given.numpy()})
        assert np.allclose(got, want.numpy(), atol=1e-4)


def test_the_card_tells_where_the_set_comes_from(exported: Exported, opened: OpenedSet):
    text = (exported("hf") / "README.md").read_text()
    header = yaml.safe_load(text.split("---\n")[1])
    assert header["license"] == "unknown"
    assert header["configs"][0]["data_files"][0]["split"] == "train"
    for part in (
        opened.provenance.data.fingerprint,
        "tiny_encoders:image",
        "Limits",
        "| test | 2 |",
        "Ask the owner of the data",
        f"made by raydd {code_version()} on",
        "students' recipe: epochs 3, batch_size 512, momentum 0.9, weight_decay 0.005, dropout 0.1, rate effective",
    ):
        assert part in text


def test_a_copied_set_is_exported_without_its_store(tmp_path: Path, opened: OpenedSet):
    copy = tmp_path / "somewhere" / "copy"
    shutil.copytree(made_set().folder, copy)
    again = open_set(copy)
    assert stored_scores(again) == {}
    assert torch.equal(again.synthetic.image_features, opened.synthetic.image_features)
    assert main(["export", "--set", str(copy), "--to", "png", str(tmp_path / "out"), *ENCODERS]) == 0
    assert "None are known" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("placed", [True, False])
def test_a_student_is_trained_in_the_store_that_the_settings_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, placed: bool
):
    made, stores = made_set("features"), []
    copy = tmp_path / "downloads" / "set"
    shutil.copytree(made.folder, copy)
    monkeypatch.setenv("RAYDD_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(
        exporting, "open_workbench", lambda config, store: stores.append(store) or open_workbench(config, store)
    )
    named = ["--place.store", str(tmp_path / "mine")] if placed else []
    assert main(["export", "--set", str(copy), "--to", "head", str(tmp_path / "out"), *ENCODERS, *named]) == 0
    assert [store.folder for store in stores] == [tmp_path / ("mine" if placed else "home/store")]


def test_what_evaluate_computes_is_on_the_next_card(tmp_path: Path):
    made = made_set("features")
    copy, settings = tmp_path / "somewhere" / "copy", flags(made, "--place.home", str(tmp_path / "home"))
    shutil.copytree(made.folder, copy)

    def card() -> str:
        assert main(["export", "--set", str(copy), "--to", "png", str(tmp_path / "out"), *settings]) == 0
        return (tmp_path / "out" / "README.md").read_text()

    def evaluate(*more: str) -> None:
        assert main(["evaluate", "--set", str(copy), *settings, "--evaluate.baselines", *more]) == 0

    assert "None are known" in card()
    evaluate("--evaluate.seeds", "4", "--students.epochs", "2")
    assert "None are known" in card()  # its students have another recipe than the card's
    evaluate("--evaluate.seeds", "3")
    assert "| test | 3 |" in card()


@pytest.mark.parametrize("readme", ["# My project\n", "---\nlicense: mit\n---\n\n- raydd\n", "# Mine\n- raydd\n"])
def test_a_readme_of_the_user_s_is_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str], readme: str):
    (tmp_path / "README.md").write_text(readme)
    asked = ["export", "--set", str(made_set("features").folder), "--to", "png", str(tmp_path), *ENCODERS]
    assert main(asked) == 2
    assert f"{tmp_path / 'README.md'} is no data card of raydd's" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    assert (tmp_path / "README.md").read_text() == readme
    (tmp_path / "README.md").unlink()
    assert [main(asked), main(asked)] == [0, 0]  # its own card is replaced


@pytest.mark.parametrize("to", ["hf", "webdataset", "png"])
@pytest.mark.parametrize("centre", [True, False])
def test_what_students_need_beside_the_pairs_is_there_and_told(tmp_path: Path, to: str, centre: bool):
    made = made_set("features", centre=centre)
    assert main(["export", "--set", str(made.folder), "--to", to, str(tmp_path), *ENCODERS]) == 0
    tensors = load_file(tmp_path / "synthetic.safetensors")
    assert {"rates", "similarity.left"} < set(tensors)
    assert ("image_centre" in tensors) == centre
    told = "students subtract `image_centre` from all image features"
    assert (told in (tmp_path / "README.md").read_text()) == centre


def test_a_set_of_features_has_no_pictures(tmp_path: Path):
    made = made_set("features")
    for to in ("hf", "png", "webdataset"):
        assert main(["export", "--set", str(made.folder), "--to", to, str(tmp_path / to), *ENCODERS]) == 0
    assert "no pictures in it" in (tmp_path / "png" / "README.md").read_text()
    assert not (tmp_path / "png" / "images").exists()


def trained_encoder_set(folder: Path) -> Path:
    """A set whose students train the image encoder too."""
    return folder_of(saved(folder, settings=load(settings={**ENCODER_SET, "distill.rank": 2})))


def test_a_card_of_a_set_that_trains_its_encoder_says_so(tmp_path: Path):
    assert main(["export", "--set", str(trained_encoder_set(tmp_path)), "--to", "png", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "README.md").read_text()
    assert "efficientnet-lite0 (images), which students train, and minilm (texts), frozen" in text
    assert "trains the image encoder and a text head on them" in text
    assert "(image encoder), 0.2 (text head)" in text
    assert "both frozen" not in text
    assert "projection heads" not in text


def test_what_is_no_set_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(RecordError, match="is not a synthetic set"):
        open_set(tmp_path)
    assert main(["export", "--to", "png", str(tmp_path)]) == 2
    assert "--set is missing" in capsys.readouterr().err
