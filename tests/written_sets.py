"""A synthetic set of some numbers, written to a store without a distillation, and what to break in it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raydd.config import Config
from raydd.data import CaptionRows, DataSet, Pairs
from raydd.distill.similarity import Similarity
from raydd.distill.synthetic import SyntheticSet
from raydd.sets.provenance import Provenance, Upstream
from raydd.sets.write import write_set
from raydd.settings import load
from raydd.store import Record, Store

N, IMAGE, TEXT, SIDE = 4, 5, 3, 6
TEXTS = tuple(f"caption {number}" for number in range(7))


def config(**changes: Any) -> Config:
    return load(settings={"distill.pairs": N, "distill.rank": 2, "evaluate.seeds": 2, **changes})


def made(kind: str = "low-rank", *, pixels: bool = True) -> SyntheticSet:
    generator = torch.Generator().manual_seed(0)
    return SyntheticSet(
        torch.randn(N, IMAGE, generator=generator),
        torch.randn(N, TEXT, generator=generator),
        Similarity.start(kind, N, rank=2, alpha=3.0, generator=generator),  # type: ignore[arg-type]
        0.1,
        0.2,
        "infonce",
        torch.arange(N),
        torch.arange(N),
        torch.randint(0, 256, (N, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8) if pixels else None,
    )


def pairs() -> Pairs:
    count = len(TEXTS)
    return Pairs((None,) * count, tuple(f"{n}.jpg" for n in range(count)), TEXTS, np.arange(count))  # type: ignore[arg-type]


def provenance(synthetic: SyntheticSet, settings: Config | None = None) -> Provenance:
    data = DataSet("tiny", pairs(), pairs(), pairs(), (), ("val was cut from train",), "0123abcd")
    return Provenance.of(
        settings or config(),
        synthetic,
        data=data,
        identities=("efficientnet-lite0 a1", "minilm b2"),
        upstream=Upstream(experts="experts/00ff", features="aa11"),
        width=5,
        times_learned_rates=2.0,
        seconds=1.5,
        preparing_seconds=0.5,
        cpu_seconds=1.5,
        peak_bytes=10**9,
        device="cpu",
    )


def saved(root: Path, synthetic: SyntheticSet | None = None, settings: Config | None = None) -> Record:
    """The set as a complete record of a store in this folder."""
    synthetic = made() if synthetic is None else synthetic
    record = Record.of(Store(root), "synthetic", {"n": N}, {"experts": "00ff"}, version=1)
    texts = torch.randn(len(TEXTS), TEXT, generator=torch.Generator().manual_seed(1)).half()
    write_set(record, synthetic, provenance(synthetic, settings), CaptionRows((texts,), len(TEXTS)), pairs())
    return record


def folder_of(record: Record) -> Path:
    return Path(record.store.root) / record.folder


def broken(record: Record, facts: Any) -> Record:
    """The same record with a manifest of its own making, whose seal is right."""
    manifest = record.read_json("manifest.json")
    record.write_json("manifest.json", {**manifest, "facts": facts})
    return replace(record)
