"""Image encoders whose process is killed while it encodes: `mortal_encoders:once`, `mortal_encoders:always`.

`mortal_encoders:refuses` raises an error of raydd's instead.
"""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import tiny_encoders
from torch import Tensor, nn

from raydd.config import EncodersConfig
from raydd.data.encoders import ImageTower
from raydd.errors import DataError

FLAG = "MORTAL_FLAG"  # the environment variable that names the file by which `once` remembers that it died


class Refusing(nn.Module):
    """Raises an error of raydd's when it is called."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > 1:  # loading tries it on one image
            raise DataError("The images are too dark. Take others.")
        return self.module(images)


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
    return _tower(config, lambda module: Mortal(module, Path(os.environ[FLAG])))


def always(config: EncodersConfig) -> ImageTower:
    """Dies at every batch."""
    return _tower(config, lambda module: Mortal(module, None))


def refuses(config: EncodersConfig) -> ImageTower:
    """Raises an error of raydd's at every batch."""
    return _tower(config, Refusing)


def _tower(config: EncodersConfig, failing: Callable[[nn.Module], nn.Module]) -> ImageTower:
    tower = tiny_encoders.image(config)
    module = failing(tower.module)
    return ImageTower(module=module, size=tower.size, width=tower.width, mean=tower.mean, std=tower.std)
