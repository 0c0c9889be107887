"""Tiny data sets, written to disk in every layout that raydd reads."""

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


LAYOUTS: dict[str, Callable[[Path, Sequence[Picture]], DataConfig]] = {
    "flat-json": write_flat_json,
    "karpathy": write_karpathy,
    "coco": write_coco,
    "parquet": write_parquet,
    "parquet-rows": write_parquet_rows,
    "webdataset": write_shards,
}


def _flat_rows(picture: Picture) -> list[dict[str, object]]:
    image = f"{picture.split}/{picture.name}.png"
    if picture.split != "train":
        return [{"image": image, "caption": picture.captions}]
    return [{"image": image, "caption": caption, "image_id": picture.name} for caption in picture.captions]


def _write_images(root: Path, pictures: Sequence[Picture]) -> None:
    for picture in pictures:
        (root / picture.split).mkdir(parents=True, exist_ok=True)
        (root / picture.split / f"{picture.name}.png").write_bytes(picture.content)
