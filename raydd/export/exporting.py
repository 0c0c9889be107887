"""Exports a set to files with a data card, and pushes them to the Hugging Face hub ($HF_ENDPOINT)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raydd.config import Config
from raydd.errors import ConfigError
from raydd.export.cards import TAG, card
from raydd.export.formats import PARQUET, SHARD, write_hugging_face, write_plain, write_webdataset
from raydd.export.heads import reading_code, write_onnx, write_student
from raydd.export.hub import check_section, require_scorable, write_description
from raydd.progress import Progress, silent
from raydd.protocols import open_workbench
from raydd.sets.read import open_set, store_of, stored_scores
from raydd.sets.write import IMAGES, image_file
from raydd.stages.students import own_students

CARD = "README.md"

_WRITERS = {"hf": write_hugging_face, "hub": write_hugging_face, "webdataset": write_webdataset, "png": write_plain}
_DATASETS_CODE = "from datasets import load_dataset\n\npairs = load_dataset(FOLDER, split='train').with_format('numpy')"
_READING_CODE = {
    "hf": _DATASETS_CODE,
    "hub": _DATASETS_CODE,
    "webdataset": f"""\
import webdataset

pairs = webdataset.WebDataset(FOLDER + "/{SHARD}", shardshuffle=False).decode("pil")""",
    "png": "import json\nfrom pathlib import Path\n\npairs = json.loads((Path(FOLDER) / 'pairs.json').read_text())",
    "onnx": """\
import onnxruntime

session = onnxruntime.InferenceSession(FOLDER + "/image.onnx")
(embedding,) = session.run(None, {"pixels": pixels})  # float32 [B 3 S S] in 0 to 1""",
}


def export_set(
    folder: Path, to: str, into: Path, config: Config, *, licence: str = "", progress: Progress = silent
) -> dict[str, str]:
    """Export a set, or a student trained on it, in one format; return each file with its description.

    Args:
        folder: folder of the synthetic set.
        to: hf, hub, webdataset, png, head or onnx. hub is hf with a description that `raydd evaluate --outside` reads;
            its card has the command that scores the export, and the expected score.
        into: where to write; created if it is missing.
        config: settings for head, onnx and hub: how to train students, weights of the encoders, and the device; for
            hub also the data and the split to score on.
        licence: licence of the source data as the user states it.
        progress: reports the progress of what is computed for hub.

    Raises:
        RecordError: the folder is not a synthetic set.
        ConfigError: `into` has a README.md that is no data card of raydd's; head, onnx or hub is requested, and the
            settings name other encoders than the set was made with; or the set cannot be scored from its files.
    """
    _require_own_card(into)
    opened = open_set(folder)
    store = store_of(opened, config.place)
    metadata, code, check = dict[str, Any](), "", ""
    if to == "hub":
        require_scorable(opened, config)
    if to in _WRITERS:
        files = _WRITERS[to](opened, into)
        metadata["task_categories"] = ["feature-extraction", "zero-shot-image-classification"]
        if to == "hub":
            files |= write_description(opened, config, into)
            check = check_section(into, config, store, progress)
        if to in ("hf", "hub"):
            data_files = [{"split": "train", "path": PARQUET}]
            metadata["configs"] = [{"config_name": "default", "data_files": data_files}]
    else:
        opened.provenance.require_encoders(config)
        work = open_workbench(config, store)
        (student,) = work.train_students(opened.synthetic, [0])
        tensors = work.student_tensors(student)
        files, code = write_student(tensors, opened, into), reading_code(tensors)
        if to == "onnx":
            size, text_width = work.image_encoder.size, opened.synthetic.text_features.shape[1]
            files |= write_onnx(work.student_modules(student), size, text_width, into)
    text = card(
        opened,
        stored_scores(opened, store, made_with=own_students(opened.provenance, len(opened.synthetic))),
        files=files,
        reading_code=_READING_CODE.get(to, code),
        check=check,
        metadata=metadata,
        licence=licence,
    )
    (into / CARD).write_text(text, encoding="utf-8")
    return {**files, CARD: "the data card"}


def _require_own_card(folder: Path) -> None:
    """Refuse a folder with a README.md that is no data card of raydd's, since the export would replace it."""
    file = folder / CARD
    header = file.read_text(encoding="utf-8", errors="replace").split("\n---\n")[0] if file.exists() else ""
    if file.exists() and not (header.startswith("---\n") and f"\n- {TAG}\n" in header):
        raise ConfigError(f"{file} is no data card of raydd's, and would be replaced. Give another folder.")


_ADVICE = {
    401: "The hub does not accept the token. Log in with `hf auth login`, or correct $HF_TOKEN.",
    403: "The token may not write there. Use a token with write access, and your own user or organisation name.",
    404: "There is no such repository. Correct the name, USER/NAME.",
}


def exported_file_names(files: Mapping[str, str], pairs: int) -> list[str]:
    """Return the names of all files of an export, with the image pattern of `export_set` expanded."""
    images = [image_file(number) for number in range(pairs)] if IMAGES in files else []
    return [*(name for name in files if name != IMAGES), *images]


def push(folder: Path, name: str, files: Sequence[str]) -> str:
    """Push an export to the hub as a data set, which is created if it is missing; return its URL.

    huggingface_hub reads the token of `hf auth login` or $HF_TOKEN; raydd does not read it.

    Args:
        folder: folder of the export.
        name: USER/NAME on the hub.
        files: names of the files to push; other files in the folder are not pushed.

    Raises:
        ConfigError: nobody is logged in, the hub refuses, or the hub cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HTTPError  # pyright: ignore[reportPrivateImportUsage]

    api = HfApi()
    try:
        address = api.create_repo(name, repo_type="dataset", exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, repo_type="dataset", allow_patterns=list(files))
    except (HfHubHTTPError, HTTPError, OSError, ValueError) as error:
        status = error.response.status_code if isinstance(error, HfHubHTTPError) and error.response is not None else 0
        advice = _ADVICE.get(
            status, "Check the name, USER/NAME, the network and $HF_ENDPOINT, and run the command again."
        )
        raise ConfigError(f"{name} cannot be pushed ({_hub_message(error)}). {advice}") from error
    return str(address)


def _hub_message(error: Exception) -> str:
    """Return the error message of the hub or the network, on one line."""
    message = getattr(error, "server_message", None) or str(error)
    lines = [line.strip().removeprefix("- ") for line in message.splitlines() if line.strip()]
    return " ".join(lines) or type(error).__name__
