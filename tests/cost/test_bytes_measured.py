"""The memory that a trial is predicted to need, against what one with heads of published width takes on a CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from wide_encoders import IMAGE_WIDTH, TEXT_WIDTH

from raydd.cost.bytes import CONTEXT_BYTES, trial_bytes
from raydd.settings import load

TRIAL = """
import ctypes, json, sys
import psutil
import raydd
from raydd import stages
from raydd.memory import peak_bytes, reset_peak
from raydd.place import open_store
from raydd.settings import load
from raydd.config.sweep import TRIAL_SEEDS

config = load(settings=json.loads(sys.argv[1]))
store = open_store(config.place)
work = raydd.open(config, store)
work.experts()
ctypes.CDLL(None).malloc_trim(0)  # blocks that the experts freed, which the trial would take again unseen
reset_peak("cpu")
before = psutil.Process().memory_info().rss
synthetic = stages.final_synthetic(work)
stages.score_students(work, synthetic, split="val", seeds=range(TRIAL_SEEDS))
print(peak_bytes("cpu") - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("gradient", "steps"), [("exact", 4), ("exact", 16), ("constant-memory", 16)])
def test_a_trial_takes_less_than_predicted_and_not_much_less(tiny_data, tmp_path: Path, gradient: str, steps: int):
    settings = {
        "data.reader": "flat-json",
        "data.root": str(tiny_data),
        "encoders.image": "wide_encoders:image",
        "encoders.text": "wide_encoders:text",
        "features.views": 1,
        "experts.count": 1,
        "experts.batch_size": 8,
        "distill.pairs": 12,
        "distill.minibatch": 12,
        "distill.images": "features",
        "distill.steps": 2,
        "distill.target_epochs": 1,
        "distill.student_steps": steps,
        "distill.gradient": gradient,
        "students.epochs": 2,
        "place.device": "cpu",
        "place.threads": 1,
        "place.home": str(tmp_path / "home"),
    }
    done = subprocess.run(
        [sys.executable, "-c", TRIAL, json.dumps(settings)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    measured = int(done.stdout.splitlines()[-1])
    predicted = trial_bytes(load(settings=settings), IMAGE_WIDTH, TEXT_WIDTH) - CONTEXT_BYTES  # a GPU's, not here
    print(f"{gradient}, {steps} steps: predicted {predicted / 1e9:.2f} GB, measured {measured / 1e9:.2f} GB")
    assert measured < predicted
    assert measured > 0.3 * predicted
