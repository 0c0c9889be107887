"""Memory stays flat in the size of the data set: measured in a process of its own, its workers counted in full."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import io, resource, sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from raydd.config import Config, EncodersConfig, FeaturesConfig, PlaceConfig
from raydd.data import DataSet, Pairs, encode_images, encode_texts, open_features, open_held_out
from raydd.data.encoders import ImageTower, TextTower
from raydd.store import Store

WIDTH, SIZE, VIEWS, WORKERS = 2304, 16, 10, 2


class Repeated(torch.nn.Module):
    def forward(self, pixels):
        return pixels.flatten(1).repeat(1, WIDTH // (3 * SIZE * SIZE))


def image(config):
    return ImageTower(Repeated(), SIZE, WIDTH, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def text(config, device):
    return TextTower(lambda captions: torch.zeros(len(captions), 768), 768)


@dataclass(frozen=True)
class Noise:
    name: str

    def read(self):
        content = io.BytesIO()
        pixels = np.random.default_rng(int(self.name)).integers(0, 256, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(content, "BMP")
        return content.getvalue()

    def stamp(self):
        return self.name


def pairs(count):
    names = tuple(map(str, range(count)))
    captions = tuple(f"caption {caption}" for caption in range(5 * count))
    return Pairs(tuple(map(Noise, names)), names, captions, np.repeat(np.arange(count), 5))


if __name__ == "__main__":
    torch.set_num_threads(WORKERS)
    count, store = int(sys.argv[1]), Store(sys.argv[2])
    data = DataSet("noise", pairs(count), pairs(50), pairs(50), (), (), "noise")
    name = Path(__file__).stem
    config = Config(
        encoders=EncodersConfig(image=f"{name}:image", text=f"{name}:text"),
        features=FeaturesConfig(views=VIEWS, augment="mild"),
        place=PlaceConfig(device="cpu"),
    )
    records, texts = encode_images(config, data, store), encode_texts(config, data, store)
    features = open_features(records, open_held_out(records, texts), texts)
    assert features.train.images.shape == (count, VIEWS, WIDTH)
    order = torch.randperm(count)[:128]
    features.train.images.gather(order, 3)
    peaks = [resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(peaks[0] + WORKERS * peaks[1])
"""


def peak_mb(folder: Path, images: int) -> float:
    script = folder / "raydd_test_memory.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(images), str(folder / f"store{images}")]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_images(tmp_path: Path) -> None:
    few, many = peak_mb(tmp_path, 1000), peak_mb(tmp_path, 5000)  # records of 46 and 230 MB
    assert many < few + 100
    assert many < 4096
