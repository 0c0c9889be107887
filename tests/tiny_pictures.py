"""A tiny data set of noise, written where a test wants it."""

import json
from pathlib import Path

import numpy as np
from PIL import Image


def write_pictures(root: Path, train: int = 24, val: int = 6, test: int = 6) -> Path:
    """A flat-json data set named tiny: so many PNGs of 32 x 32 pixels in each split, two captions each."""
    (root / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for split, count in {"train": train, "val": val, "test": test}.items():
        rows = []
        for number in range(count):
            name = f"images/{split}{number}.png"
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(root / name)
            rows.append({"image": name, "caption": [f"picture {number} of {split}", f"some noise, number {number}"]})
        (root / f"tiny_{split}.json").write_text(json.dumps(rows))
    return root
