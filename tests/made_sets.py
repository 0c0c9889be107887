"""A small synthetic set made the whole way, once a test session: features, experts, distillation, pixels, scores."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from tiny_pictures import write_pictures

import raydd
from raydd import stages
from raydd.config import Config
from raydd.place import open_store
from raydd.settings import load
from raydd.store import Store

SETTINGS: dict[str, Any] = {
    "data.reader": "flat-json",
    "data.name": "tiny",
    "encoders.image": "tiny_encoders:image",
    "encoders.text": "tiny_encoders:text",
    "features.views": 2,
    "experts.count": 2,
    "experts.epochs": 2,
    "experts.batch_size": 8,
    "distill.pairs": 6,
    "distill.method": "repblend",
    "distill.start_rate": 0.3,
    "distill.minibatch": 4,
    "distill.rank": 2,
    "distill.steps": 6,
    "distill.target_epochs": 1,
    "pixels.steps": 3,
    "students.epochs": 3,
    "evaluate.seeds": 2,
    "place.mlflow": "none",
}


# Protocol A: the image encoder is trained, which learns pixels alone.
TRAINED: dict[str, Any] = {
    "distill.protocol": "encoder",
    "distill.gradient": "constant-memory",
    "distill.encoder_rate": 0.05,
    "experts.encoder_lr": 0.05,
    "distill.steps": 3,
    "students.epochs": 2,
}

# A set's encoders that are code of somebody's own have to be repeated.
ENCODERS = ("--encoders.image", "tiny_encoders:image", "--encoders.text", "tiny_encoders:text")


@dataclass(frozen=True)
class Made:
    """The set, where it lies, and the settings that made it."""

    config: Config
    store: Store
    folder: Path
    home: Path


@cache
def made_set(space: str = "features-then-pixels", protocol: str = "heads", centre: bool = False) -> Made:
    """The set in a temporary home; `space`, `protocol` and `centre` as in `distill` and `features`."""
    home = Path(mkdtemp(prefix="raydd-made-"))
    config = load(
        settings={
            **SETTINGS,
            **(TRAINED if protocol == "encoder" else {}),
            "data.root": str(write_pictures(home / "tiny")),
            "distill.images": space,
            "features.centre": centre,
            "place.home": str(home),
        }
    )
    store = open_store(config.place)
    result = stages.run(raydd.open(config, store))
    return Made(config, store, home / "store" / result["made"]["synthetic_record"], home)


def trained_set() -> Made:
    """The set of protocol A, whose students train the image encoder too."""
    return made_set("pixels", "encoder")


def flags(made: Made, *more: str) -> list[str]:
    """The settings as flags of the command line."""
    given = {
        **SETTINGS,
        "data.root": made.config.data.root,
        "distill.images": made.config.distill.images,
        "place.home": str(made.home),
    }
    return [part for name, value in given.items() for part in (f"--{name}", str(value))] + [*more]
