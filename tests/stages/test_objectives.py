"""Methods without trajectories, from settings to scores: no experts are made for those that read none."""

from pathlib import Path
from typing import Any

import pytest
from stage_settings import TINY

import raydd
from raydd import stages
from raydd.config import Config
from raydd.errors import ConfigError
from raydd.sets.read import open_set, store_of
from raydd.settings import load
from raydd.store import Store

READS_EXPERTS = {"covmatch": False, "apm": False, "ridge": False, "mdm": True, "lgm": False}


def config_of(tiny_data: Path, method: str, **settings: Any) -> Config:
    own = {"distill.method": method, "distill.images": "features", "distill.real_minibatch": 6}
    tiny = {name: value for name, value in TINY.items() if not name.startswith("distill.similarity")}
    return load(settings={**tiny, "data.root": str(tiny_data), **own, **settings})


@pytest.mark.parametrize("method", READS_EXPERTS)
def test_a_method_makes_what_it_reads_and_a_set_that_others_can_read(
    tiny_data: Path, store: Store, method: str
) -> None:
    work = raydd.open(config_of(tiny_data, method), store)
    made = stages.final_synthetic(work)
    assert bool(store.names("experts")) == READS_EXPERTS[method]
    opened = open_set(Path(store.root) / stages.synthetic_record(work).folder)
    assert opened.provenance.upstream.experts == (work.experts_record.fingerprint if READS_EXPERTS[method] else None)
    assert store_of(opened, work.config.place).root == store.root
    scores = stages.score_students(work, made, split="val", seeds=range(2))
    assert 0 <= scores.mean["r_mean"] <= 100
    assert stages.collapse_over_steps(stages.synthetic_record(work))[0]["step"] == 0


def test_other_objectives_need_frozen_encoders(tiny_data: Path) -> None:
    with pytest.raises(ConfigError, match=r"distill\.objective"):
        config_of(tiny_data, "ridge", **{"distill.protocol": "encoder", "distill.images": "pixels"})
