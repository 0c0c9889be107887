"""From a set's folder to files with their card, on a disk or on the Hugging Face hub ($HF_ENDPOINT)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raydd.config import Config
from raydd.errors import ConfigError
from raydd.export.cards import card
from raydd.export.formats import IMAGES, PARQUET, SHARD, write_hugging_face, write_plain, write_webdataset
from raydd.export.heads import reading, write_onnx, write_student
from raydd.export.hub import evaluator, require_scorable, write_description
from raydd.progress import Progress, silent
from raydd.protocols import open_workbench
from raydd.sets.read import kept_scores, open_set, store_of

CARD = "README.md"

_ROWS = {"hf": write_hugging_face, "hub": write_hugging_face, "webdataset": write_webdataset, "png": write_plain}
_DATASETS = "from datasets import load_dataset\n\npairs = load_dataset(FOLDER, split='train').with_format('numpy')"
_READING = {
    "hf": _DATASETS,
    "hub": _DATASETS,
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
    """Write a set, or a student of it, in one format; gives each file and what it holds.

    Args:
        folder: the synthetic set.
        to: hf, hub, webdataset, png, head or onnx. hub is hf with a description that `raydd evaluate --outside` reads,
            and in the card its command and the score that it gives.
        into: where to write; made if it is missing.
        config: for a student and for hub: the students' recipe, the encoders' weights, where to compute; for hub also
            the data and the split to score on.
        licence: the user's own word for the source's licence.
        progress: told of what is computed for hub.

    Raises:
        RecordError: the folder is not a synthetic set.
        ConfigError: a student or a score is asked for, and the settings name other encoders than the set was made with;
            or the set cannot be scored from its files.
    """
    opened = open_set(folder)
    metadata, code, check = dict[str, Any](), "", ""
    if to == "hub":
        require_scorable(opened, config)
    if to in _ROWS:
        files = _ROWS[to](opened, into)
        metadata["task_categories"] = ["feature-extraction", "zero-shot-image-classification"]
        if to == "hub":
            files |= write_description(opened, config, into)
            check = evaluator(into, config, store_of(opened, config.place), progress)
        if to in ("hf", "hub"):
            files_of = [{"split": "train", "path": PARQUET}]
            metadata["configs"] = [{"config_name": "default", "data_files": files_of}]
    else:
        opened.provenance.require_encoders(config)
        work = open_workbench(config, opened.record.store)
        (student,) = work.train_students(opened.synthetic, [0])
        tensors = work.student_tensors(student)
        files, code = write_student(tensors, opened, into), reading(tensors)
        if to == "onnx":
            size, text_width = work.image_encoder.size, opened.synthetic.text_features.shape[1]
            files |= write_onnx(work.student_modules(student), size, text_width, into)
    text = card(
        opened,
        kept_scores(opened),
        files=files,
        reading=_READING.get(to, code),
        check=check,
        metadata=metadata,
        licence=licence,
    )
    (into / CARD).write_text(text, encoding="utf-8")
    return {**files, CARD: "the data card"}


_HELP = {
    401: "The hub does not take the token: log in with `hf auth login`, or correct $HF_TOKEN.",
    403: "The token may not write there: give one with write access, and a name that is yours.",
    404: "There is no such place: correct the name, USER/NAME.",
}


def names_of(files: Mapping[str, str], pairs: int) -> list[str]:
    """The files of an export by name, as `export_set` gives them: the pattern of the images is spelt out."""
    images = [f"{Path(IMAGES).parent}/{number:03}.png" for number in range(pairs)] if IMAGES in files else []
    return [*(name for name in files if name != IMAGES), *images]


def push(folder: Path, name: str, files: Sequence[str]) -> str:
    """Push an exported folder as a data set, which is made if it is missing; gives its address.

    The token is that of `hf auth login` or $HF_TOKEN; huggingface_hub reads it, nothing here does.

    Args:
        folder: the export.
        name: USER/NAME on the hub.
        files: what to push; anything else in the folder stays here.

    Raises:
        ConfigError: nobody is logged in, or the hub refuses or cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HTTPError  # pyright: ignore[reportPrivateImportUsage]

    api = HfApi()
    try:
        address = api.create_repo(name, repo_type="dataset", exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, repo_type="dataset", allow_patterns=list(files))
    except (HfHubHTTPError, HTTPError, OSError, ValueError) as error:
        status = error.response.status_code if isinstance(error, HfHubHTTPError) and error.response is not None else 0
        help = _HELP.get(status, "Check the name, USER/NAME, the network and $HF_ENDPOINT, and give the command again.")
        raise ConfigError(f"{name} cannot be pushed ({_reason(error)}). {help}") from error
    return str(address)


def _reason(error: Exception) -> str:
    """What the hub or the network said, on one line."""
    said = getattr(error, "server_message", None) or str(error)
    return next((line.strip() for line in said.splitlines() if line.strip()), type(error).__name__)
