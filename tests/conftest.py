import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raydd.store import Store

SHARED_DATA = Path(os.environ.get("RAYDD_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture
def shared_data() -> Path:
    """The folder of real photographs and captions, for tests marked shared_data."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"there is no folder {SHARED_DATA}; RAYDD_DATA names another")
    return SHARED_DATA


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def tiny_data(tmp_path: Path) -> Path:
    """A flat-json data set named tiny: 12 train, 4 val and 4 test PNGs of 32 x 32 pixels, two captions each."""
    root = tmp_path / "tiny"
    (root / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for split, count in {"train": 12, "val": 4, "test": 4}.items():
        rows = []
        for number in range(count):
            name = f"images/{split}{number}.png"
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(root / name)
            rows.append({"image": name, "caption": [f"picture {number} of {split}", f"some noise, number {number}"]})
        (root / f"tiny_{split}.json").write_text(json.dumps(rows))
    return root
