"""Tiny data sets, written to disk in every layout that raydd reads."""

import csv
import io
import json
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from raydd.config import DataConfig


@dataclass(frozen=True)
class Picture:
    split: str
    name: str
    captions: tuple[str, ...]

    @property
    def content(self) -> bytes:
        """A PNG of a colour that belongs to the name."""
        seed = sum(map(ord, f"{self.split}{self.name}"))
        return encode(Image.new("RGB", (8, 8), (seed % 251, seed * 7 % 241, 255 - seed % 239)))


def encode(image: Image.Image, format: str = "PNG") -> bytes:
    content = io.BytesIO()
    image.save(content, format)
    return content.getvalue()


def write_flat_json(root: Path, pictures: Sequence[Picture]) -> DataConfig:
    for split in ("train", "val", "test"):
        rows = [_flat_rows(picture) for picture in pictures if picture.split == split]
        (root / f"tiny_{split}.json").write_text(json.dumps([row for group in rows for row in group]))
    _write_images(root, pictures)
    return DataConfig(reader="flat-json", root=str(root), name="tiny")


def write_karpathy(root: Path, pictures: Sequence[Picture]) -> DataConfig:
    images = [
        {
            "filename": f"{picture.name}.png",
            "filepath": picture.split,
            "split": "restval" if picture.split == "train" and number % 2 else picture.split,
            "sentences": [{"raw": caption, "tokens": caption.split()} for caption in picture.captions],
        }
        for number, picture in enumerate(pictures)
    ]
    (root / "dataset_tiny.json").write_text(json.dumps({"images": images, "dataset": "tiny"}))
    _write_images(root / "pictures", pictures)
    return DataConfig(reader="karpathy", root=str(root), name="tiny", images="pictures")


def write_coco(root: Path, pictures: Sequence[Picture]) -> DataConfig:
    (root / "annotations").mkdir()
    for part, split in {"train2017": "train", "val2017": "test"}.items():
        chosen = [picture for picture in pictures if picture.split == split]
        first = 1000 if split == "test" else 0
        images = [{"id": first + i, "file_name": f"{picture.name}.png"} for i, picture in enumerate(chosen)]
        annotations = [
            {"id": i, "image_id": first + i, "caption": caption}
            for i, picture in enumerate(chosen)
            for caption in picture.captions
        ]
        content = {"info": {}, "images": images, "annotations": annotations}
        (root / "annotations" / f"captions_{part}.json").write_text(json.dumps(content))
        (root / part).mkdir()
        for picture in chosen:
            (root / part / f"{picture.name}.png").write_bytes(picture.content)
    return DataConfig(reader="coco", root=str(root))


def write_parquet(root: Path, pictures: Sequence[Picture]) -> DataConfig:
    """One file a split, captions as lists, row groups of two rows."""
    (root / "data").mkdir()
    for split in ("train", "val", "test"):
        chosen = [picture for picture in pictures if picture.split == split]
        images = [{"bytes": picture.content, "path": f"{picture.name}.png"} for picture in chosen]
        table = pa.table(
            {
                "image": pa.array(images, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
                "captions": pa.array([picture.captions for picture in chosen], pa.list_(pa.string())),
            }
        )
        name = {"val": "validation"}.get(split, split)
        pq.write_table(table, root / "data" / f"{name}-00000-of-00001.parquet", row_group_size=2)
    return DataConfig(reader="parquet", root=str(root))


def write_parquet_rows(root: Path, pictures: Sequence[Picture]) -> DataConfig:
    """One file with a split column, one row a caption, images as plain bytes."""
    rows = [
        {
            "image": picture.content,
            "caption": caption,
            "img_id": f"{picture.split}/{picture.name}",
            "split": picture.split,
        }
        for picture in pictures
        for caption in picture.captions
    ]
    pq.write_table(pa.Table.from_pylist(rows), root / "all.parquet")
    return DataConfig(reader="parquet", root=str(root))


def write_shards(root: Path, pictures: Sequence[Picture]) -> DataConfig:
    for split in ("train", "val", "test"):
        with tarfile.open(root / f"tiny-{split}-000000.tar", "w") as tar:
            for picture in pictures:
                if picture.split == split:
                    add_member(tar, f"{picture.name}.png", picture.content)
                    add_member(tar, f"{picture.name}.json", json.dumps({"caption": picture.captions}).encode())
    return DataConfig(reader="webdataset", root=str(root))


def add_member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def write_csv(root: Path, pictures: Sequence[Picture]) -> DataConfig:
    """One table with a split column, a row a caption."""
    rows = [(f"{p.split}/{p.name}.png", caption, p.split) for p in pictures for caption in p.captions]
    _write_table(root / "captions.csv", ["image", "caption", "split"], rows)
    _write_images(root, pictures)
    return DataConfig(reader="csv", root=str(root))


def write_tsv(root: Path, pictures: Sequence[Picture]) -> DataConfig:
    """A table a split, columns of unusual names, images in a folder of their own."""
    for split in ("train", "val", "test"):
        rows = [(c, f"{p.split}/{p.name}.png") for p in pictures if p.split == split for c in p.captions]
        _write_table(root / f"tiny_{split}.tsv", ["words", "photo"], rows, "\t")
    _write_images(root / "pictures", pictures)
    columns = {"image_column": "photo", "caption_column": "words"}
    return DataConfig(reader="csv", root=str(root), name="tiny", images="pictures", **columns)


def write_txt(root: Path, pictures: Sequence[Picture]) -> DataConfig:
    """A text beside each image, a line a caption."""
    _write_images(root, pictures)
    for picture in pictures:
        text = "".join(f"{caption}\n" for caption in picture.captions)
        (root / picture.split / f"{picture.name}.txt").write_text(text, encoding="utf-8")
    return DataConfig(reader="txt", root=str(root))


def write_parquet_paths(root: Path, pictures: Sequence[Picture]) -> DataConfig:
    """Parquet that holds the paths of images in a folder of their own."""
    rows = [{"image_path": f"{p.split}/{p.name}.png", "alt": p.captions, "split": p.split} for p in pictures]
    pq.write_table(pa.Table.from_pylist(rows), root / "tiny.parquet")
    _write_images(root / "pictures", pictures)
    return DataConfig(reader="parquet", root=str(root), images="pictures")


def write_saved(root: Path, pictures: Sequence[Picture]) -> DataConfig:
    """What `datasets.DatasetDict.save_to_disk` writes, without `datasets`: Arrow streams with batches of two rows."""
    words = {"train": "train", "val": "validation", "test": "test"}
    for split, word in words.items():
        rows = [
            {"image": {"bytes": p.content, "path": f"{p.name}.png"}, "caption": p.captions}
            for p in pictures
            if p.split == split
        ]
        table = pa.Table.from_pylist(rows, SAVED_SCHEMA)
        (root / word).mkdir()
        with pa.ipc.new_stream(root / word / "data-00000-of-00001.arrow", SAVED_SCHEMA) as stream:
            stream.write_table(table, max_chunksize=2)
        state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_split": word}
        (root / word / "state.json").write_text(json.dumps(state))
    (root / "dataset_dict.json").write_text(json.dumps({"splits": list(words.values())}))
    return DataConfig(reader="arrow", root=str(root))


SAVED_SCHEMA = pa.schema(
    [
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("caption", pa.list_(pa.string())),
    ]
)


def write_img2dataset(root: Path, pictures: Sequence[Picture], kind: str) -> DataConfig:
    """What img2dataset 1.47 writes, a shard a split, as its one caption allows."""
    for split in ("train", "val", "test"):
        rows = []
        (root / split).mkdir()
        (root / split / "00000_stats.json").write_text(json.dumps({"count": 1, "successes": 1}))
        chosen = [picture for picture in pictures if picture.split == split]
        for number, picture in enumerate(chosen):
            meta = {"caption": picture.captions[0], "url": "http://127.0.0.1/a.png", "status": "success"}
            rows.append({**meta, "key": f"{split}{number:06}", "error_message": None, "width": 8, "exif": "{}"})
        failed = {
            "caption": "gone",
            "url": "http://127.0.0.1/b.png",
            "status": "failed_to_download",
            "key": f"{split}99",
        }
        images = [picture.content for picture in chosen]
        _write_shard(root / split, kind, rows, failed, images)
    reader = {"files": "txt", "parquet": "parquet", "webdataset": "webdataset"}[kind]
    return DataConfig(reader=reader, root=str(root))


def _write_shard(folder: Path, kind: str, rows: list[dict], failed: dict, images: list[bytes]) -> None:
    with_images = kind == "parquet"
    table = [row | ({"jpg": image} if with_images else {}) for row, image in zip(rows, images, strict=True)]
    pq.write_table(pa.Table.from_pylist([*table, failed]), folder / "00000.parquet")
    if kind == "files":
        (folder / "00000").mkdir()
    for row, image in zip(rows, images, strict=True):
        parts = {"jpg": image, "txt": row["caption"].encode(), "json": json.dumps(row).encode()}
        if kind == "files":
            for ending, content in parts.items():
                (folder / "00000" / f"{row['key']}.{ending}").write_bytes(content)
        elif kind == "webdataset":
            with tarfile.open(folder / "00000.tar", "a") as tar:
                for ending, content in parts.items():
                    add_member(tar, f"{row['key']}.{ending}", content)


LAYOUTS: dict[str, Callable[[Path, Sequence[Picture]], DataConfig]] = {
    "flat-json": write_flat_json,
    "karpathy": write_karpathy,
    "coco": write_coco,
    "parquet": write_parquet,
    "parquet-rows": write_parquet_rows,
    "webdataset": write_shards,
    "csv": write_csv,
    "tsv": write_tsv,
    "txt": write_txt,
    "parquet-paths": write_parquet_paths,
    "arrow": write_saved,
}
IMG2DATASET = ("files", "parquet", "webdataset")


def _flat_rows(picture: Picture) -> list[dict[str, object]]:
    image = f"{picture.split}/{picture.name}.png"
    if picture.split != "train":
        return [{"image": image, "caption": picture.captions}]
    return [{"image": image, "caption": caption, "image_id": picture.name} for caption in picture.captions]


def _write_images(root: Path, pictures: Sequence[Picture]) -> None:
    for picture in pictures:
        (root / picture.split).mkdir(parents=True, exist_ok=True)
        (root / picture.split / f"{picture.name}.png").write_bytes(picture.content)


def _write_table(path: Path, names: list[str], rows: Sequence[Sequence[str]], separator: str = ",") -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=separator).writerows([names, *rows])
