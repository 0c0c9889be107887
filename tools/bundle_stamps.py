"""Make the bundled data set raydd/data/stamps/stamps.parquet from Debian's package tuxpaint-stamps-default.

    python tools/bundle_stamps.py                      # fetches the package with apt-get, unpacks it with dpkg
    python tools/bundle_stamps.py --unpacked FOLDER    # uses a package that `dpkg -x` has unpacked into FOLDER

The same package and library versions give the same bytes.
"""

import argparse
import gzip
import hashlib
import io
import re
import subprocess
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image, ImageOps

PACKAGE = "tuxpaint-stamps-default"
FOLDER = Path(__file__).parents[1] / "raydd" / "data" / "stamps"

SIDE = 224  # pixels
QUALITY = 80  # WebP quality
LIMIT = 5_000_000  # bytes
TEST_SHARE, VAL_SHARE = 0.18, 0.09  # shares of all pictures
SEED = 0
CELLS = 16  # pictures are compared by the ink in CELLS x CELLS cells
NEAR = 0.015  # largest share of ink in which near-duplicates differ; above it are look-alikes (an apple, an orange)

# Pictures that are under other terms than the GPL according to the package's changelog (Creative Commons BY and BY-SA,
# GFDL). They are left out.
OTHER_TERMS = (
    "animals/birds/guineafowl",
    "animals/birds/heron_greatblue",
    "animals/birds/heron_greatblue_flying",
    "animals/birds/pelican",
    "animals/insects/Brown_slug",
    "animals/insects/Woodlouse",
    "food/fruit/Apricot_whole",
    "food/fruit/Cherry_Stella",
    "food/fruit/Strawberry2",
    "household/Lightbulb",
    "plants/flowers/adeenia",
    "plants/flowers/anthoorium",
    "plants/flowers/appooppanthady",
    "plants/flowers/bolsom",
    "plants/flowers/chemparathi",
    "plants/flowers/plastic/chuvanna_plastic_poo",
    "seasonal/christmas/Christmas_pudding",
    "seasonal/christmas/German_Christmas_toy",
    "seasonal/christmas/Mince_Pie",
    "seasonal/christmas/Roast_turkey",
    "space/solarsystem/4_mars",
    "space/solarsystem/7_uranus",
    "town/monuments/inukshuk-photo",
    "vehicles/emergency/firetruck",
)


@dataclass(frozen=True)
class Stamp:
    """A picture with its caption."""

    path: str
    """Path relative to the folder of stamps, without its suffix."""
    caption: str
    picture: Image.Image
    """RGB on white, 224 x 224."""


def main() -> None:
    """Read the command line and write the Parquet file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unpacked", type=Path, help="folder of the unpacked package, instead of fetching it")
    parser.add_argument("--out", type=Path, default=FOLDER / "stamps.parquet", help="the file to write")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        package = arguments.unpacked or fetch(Path(scratch))
        stamps = read_stamps(package / "usr/share/tuxpaint/stamps")
        print(f"{PACKAGE} {version(package)}: {len(stamps)} pictures with captions")
    groups = group(stamps)
    splits = split(groups, SEED)
    content = to_parquet(stamps, groups, splits)
    if len(content) > LIMIT:
        raise SystemExit(f"The file would have {len(content)} bytes, more than {LIMIT}. Lower QUALITY.")
    arguments.out.write_bytes(content)
    counts = ", ".join(f"{count} {name}" for name, count in sorted(Counter(splits).items()))
    print(f"{arguments.out}: {len(content)} bytes, {len(set(groups))} groups, {counts}")
    print(f"SHA-256 {hashlib.sha256(content).hexdigest()}")


def fetch(folder: Path) -> Path:
    """Download the package into a folder, unpack it there, and return the unpacked package."""
    subprocess.run(["apt-get", "download", PACKAGE], cwd=folder, check=True)
    (package,) = folder.glob("*.deb")
    subprocess.run(["dpkg", "-x", package, folder / "unpacked"], check=True)
    return folder / "unpacked"


def version(package: Path) -> str:
    """Return the package's version, from its Debian changelog."""
    changelog = package / "usr/share/doc" / PACKAGE / "changelog.Debian.gz"
    return re.findall(r"\((.*?)\)", gzip.decompress(changelog.read_bytes()).decode())[0]


def read_stamps(folder: Path) -> list[Stamp]:
    """Return every picture that has a caption, is under the GPL and is visible on white, sorted by path.

    Pictures in symbols/ are left out. SVG pictures are not read, since each has a PNG of the same name.
    """
    stamps = []
    for path in sorted(folder.rglob("*.png")):
        text = path.with_suffix(".txt")
        name = path.relative_to(folder).with_suffix("")
        if name.parts[0] == "symbols" or name.as_posix() in OTHER_TERMS or not text.exists():
            continue
        caption = text.read_text("utf-8").splitlines()[0].strip()  # the following lines are translations
        stamp = Stamp(name.as_posix(), caption, draw(Image.open(path)))
        if ink(stamp.picture).any():
            stamps.append(stamp)
    return stamps


def draw(image: Image.Image) -> Image.Image:
    """Return a picture cropped to its visible part, on white, fitted into the square and centred."""
    image = image.convert("RGBA")
    image = image.crop(image.getchannel("A").getbbox())
    white = Image.new("RGBA", image.size, "white")
    flat = Image.alpha_composite(white, image).convert("RGB")
    return ImageOps.pad(flat, (SIDE, SIDE), Image.Resampling.LANCZOS, color="white")


def group(stamps: Sequence[Stamp]) -> list[str]:
    """Return a group name for each stamp; near-duplicates have the same group.

    Stamps are near-duplicates if they have the same caption, the same family of file names (frog, frog-1, frog_mirror),
    or nearly the same ink a and b, with one of them mirrored or not: |a - b|^2 <= NEAR (|a|^2 + |b|^2).
    """
    parent = list(range(len(stamps)))

    def root(index: int) -> int:
        while parent[index] != index:
            index = parent[index]
        return index

    def join(indices: Iterable[int]) -> None:
        first, *rest = sorted(root(index) for index in indices)
        for other in rest:
            parent[other] = first

    indices_by_key = defaultdict(list)
    for index, stamp in enumerate(stamps):
        indices_by_key[f"caption {stamp.caption.lower()}"].append(index)
        indices_by_key[f"family {family(stamp.path)}"].append(index)
    for indices in indices_by_key.values():
        join(indices)
    inks = np.stack([ink(stamp.picture) for stamp in stamps])  # [n 256]
    mirrored = np.stack([ink(ImageOps.mirror(stamp.picture)) for stamp in stamps])
    power = (inks**2).sum(axis=1)
    for other in (inks, mirrored):
        distance = ((inks[:, None] - other[None]) ** 2).sum(axis=2)
        for first, second in np.argwhere(np.triu(distance <= NEAR * (power[:, None] + power[None]), k=1)):
            join([int(first), int(second)])
    return [stamps[root(index)].path for index in range(len(stamps))]


def family(path: str) -> str:
    """Return a file name without the suffix of its variant: `animals/frog-1` and `frog_mirror` give `frog`."""
    name = path.rpartition("/")[2].lower()
    return re.sub(r"([-_ ]?\d+[a-z]?|[-_][a-z]|_mirror|_flip)+$", "", name)


def ink(picture: Image.Image) -> NDArray[np.float32]:
    """Return how dark each of 16 x 16 cells is, from 0 to 255, row by row: shape (256,)."""
    cells = picture.convert("L").resize((CELLS, CELLS), Image.Resampling.BOX)
    return 255 - np.asarray(cells, dtype=np.float32).ravel()


def split(groups: Sequence[str], seed: int) -> list[str]:
    """Return the split of each stamp. Val and test are drawn from the stamps that are alone in their group.

    So each caption of val and test has one right image, and all near-duplicates are in train.
    """
    sizes = Counter(groups)
    singles = [name for name in sizes if sizes[name] == 1]
    singles.sort(key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).digest())
    test_count, val_count = round(TEST_SHARE * len(groups)), round(VAL_SHARE * len(groups))
    split_of = dict.fromkeys(singles[:test_count], "test") | dict.fromkeys(
        singles[test_count : test_count + val_count], "val"
    )
    return [split_of.get(name, "train") for name in groups]


def to_parquet(stamps: Sequence[Stamp], groups: Sequence[str], splits: Sequence[str]) -> bytes:
    """Return the content of the Parquet file, in Hugging Face's layout for images."""
    images = [{"bytes": to_webp(stamp.picture), "path": f"{stamp.path}.webp"} for stamp in stamps]
    table = pa.table(
        {
            "image_id": [stamp.path for stamp in stamps],
            "image": pa.array(images, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            "caption": [stamp.caption for stamp in stamps],
            "split": list(splits),
            "group": list(groups),
        }
    )
    content = io.BytesIO()
    pq.write_table(table, content, compression="zstd", row_group_size=128)
    return content.getvalue()


def to_webp(picture: Image.Image) -> bytes:
    """Return the picture as lossy WebP."""
    content = io.BytesIO()
    picture.save(content, "WEBP", quality=QUALITY, method=6)
    return content.getvalue()


if __name__ == "__main__":
    main()
