"""Writes a set with one row for each pair: as Hugging Face Parquet, as a WebDataset shard, or as PNG and JSON."""

import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from raydd.sets.read import OpenedSet
from raydd.sets.write import IMAGES

PARQUET, SHARD = "data/train-00000-of-00001.parquet", "pairs-000000.tar"
_TEXT_COLUMNS = ("start_image", "start_caption", "nearest_captions", "cosines")


def write_hugging_face(opened: OpenedSet, folder: Path) -> dict[str, str]:
    """Write one Parquet file in the layout of `datasets`, and the tensors; return the files with their descriptions.

    Columns: pair, image (if there are pixels; it opens as a picture), image_feature [d], text_feature [e],
    similarity [N], and the text columns of `pairs.parquet`.
    """
    synthetic = opened.synthetic
    arrays = {
        "image_feature": synthetic.image_features.float().numpy(),
        "text_feature": synthetic.text_features.float().numpy(),
        "similarity": synthetic.similarity.matrix().float().numpy(),
    }
    integer_type = {"dtype": "int64", "_type": "Value"}
    string_type = {"dtype": "string", "_type": "Value"}
    columns: dict[str, Any] = {"pair": pa.array(range(len(synthetic)), pa.int64())}
    features: dict[str, Any] = {"pair": integer_type}
    if synthetic.pixels is not None:
        pictures = [
            {"bytes": opened.record.read(row["image"]), "path": PurePosixPath(row["image"]).name} for row in opened.rows
        ]
        columns["image"] = pa.array(pictures, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
        features["image"] = {"_type": "Image"}
    for name, values in arrays.items():
        columns[name] = _fixed_size_rows(values)
        features[name] = {
            "feature": {"dtype": "float32", "_type": "Value"},
            "length": values.shape[1],
            "_type": "Sequence",
        }
    for name in _TEXT_COLUMNS:
        columns[name] = pa.array([row[name] for row in opened.rows])
        features[name] = string_type
    features["nearest_captions"] = {"feature": string_type, "_type": "Sequence"}
    features["cosines"] = {"feature": {"dtype": "float64", "_type": "Value"}, "_type": "Sequence"}
    table = pa.table(columns).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    (folder / PARQUET).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / PARQUET)
    return {PARQUET: "the pairs: " + ", ".join(columns), **_write_tensors(opened, folder)}


def write_webdataset(opened: OpenedSet, folder: Path) -> dict[str, str]:
    """Write one tar shard, and the tensors; return the files with their descriptions.

    The shard has for each pair its PNG (if there are pixels), the nearest caption, features, its row of the similarity
    matrix, and a JSON with start pair and captions.
    """
    folder.mkdir(parents=True, exist_ok=True)
    first_pair = []
    with tarfile.open(folder / SHARD, "w") as shard:
        for name, content in _shard_members(opened):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            shard.addfile(member, io.BytesIO(content))
            if name.startswith("000000."):
                first_pair.append(name)
    return {SHARD: f"the pairs: {', '.join(first_pair)}", **_write_tensors(opened, folder)}


def write_plain(opened: OpenedSet, folder: Path) -> dict[str, str]:
    """Write PNG images, one JSON with start pairs and captions, and the tensors; return the files with descriptions."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"pair": number, **_text_columns(row)} for number, row in enumerate(opened.rows)]
    files = {"pairs.json": "start pair and nearest real captions of each pair"}
    if opened.synthetic.pixels is not None:
        (folder / IMAGES).parent.mkdir(exist_ok=True)
        for row, set_row in zip(rows, opened.rows, strict=True):
            row["image"] = set_row["image"]
            (folder / row["image"]).write_bytes(opened.record.read(row["image"]))
        files[IMAGES] = "the synthetic images"
    (folder / "pairs.json").write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8")
    return {**files, **_write_tensors(opened, folder)}


def _write_tensors(opened: OpenedSet, folder: Path) -> dict[str, str]:
    name = "synthetic.safetensors"
    (folder / name).write_bytes(opened.record.read(name))
    content = "the pairs as tensors, with the factors of the similarity matrix and the students' learning rates"
    if opened.synthetic.image_centre is not None:
        content += "; students subtract `image_centre` from all image features"
    return {name: content}


def _shard_members(opened: OpenedSet) -> Iterator[tuple[str, bytes]]:
    synthetic = opened.synthetic
    matrix = synthetic.similarity.matrix().float().numpy()
    for number, row in enumerate(opened.rows):
        key = f"{number:06}"
        if row["image"] is not None:
            yield f"{key}.png", opened.record.read(row["image"])
        yield f"{key}.txt", row["nearest_captions"][0].encode()
        yield f"{key}.json", json.dumps({"pair": number, **_text_columns(row)}, ensure_ascii=False).encode()
        yield f"{key}.image_feature.npy", _npy_bytes(synthetic.image_features[number].float().numpy())
        yield f"{key}.text_feature.npy", _npy_bytes(synthetic.text_features[number].float().numpy())
        yield f"{key}.similarity.npy", _npy_bytes(matrix[number])


def _text_columns(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in _TEXT_COLUMNS}


def _npy_bytes(values: NDArray[np.float32]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def _fixed_size_rows(values: NDArray[np.float32]) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
