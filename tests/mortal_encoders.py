"""Image encoders whose process is killed while it encodes: `mortal_encoders:once`, `mortal_encoders:always`."""

import os
import signal
from pathlib import Path

import tiny_encoders
from torch import Tensor, nn

from raydd.config import EncodersConfig
from raydd.data.encoders import ImageTower

FLAG = "MORTAL_FLAG"  # the environment variable that names the file by which `once` remembers that it died


class Mortal(nn.Module):
    """Kills its process when it is called, as long as the file is not there."""

    def __init__(self, module: nn.Module, remembered: Path | None) -> None:
        super().__init__()
        self.module, self.remembered = module, remembered

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > 1 and not (self.remembered and self.remembered.exists()):  # loading tries it on one image
            if self.remembered:
                self.remembered.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.module(images)


def once(config: EncodersConfig) -> ImageTower:
    """Dies at its first batch."""
    return _tower(config, Path(os.environ[FLAG]))


def always(config: EncodersConfig) -> ImageTower:
    """Dies at every batch."""
    return _tower(config, None)


def _tower(config: EncodersConfig, remembered: Path | None) -> ImageTower:
    tower = tiny_encoders.image(config)
    module = Mortal(tower.module, remembered)
    return ImageTower(module=module, size=tower.size, width=tower.width, mean=tower.mean, std=tower.std)
