"""Memory stays flat in the size of the data set when Ray workers encode it from tar and Parquet files."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "large_data.py"


def peaks(kind: str, pairs: int) -> tuple[float, float]:
    """The most memory of the driver's own and of a worker's own, in MB."""
    command = [sys.executable, str(SCRIPT), kind, str(pairs)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    print(done.stdout)
    found = re.search(r"driver (\d+) MB, the largest of 2 workers (\d+) MB", done.stdout)
    assert found
    return float(found[1]), float(found[2])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_neither_driver_nor_workers_grow_with_the_pairs(kind: str):
    few, many = peaks(kind, 4000), peaks(kind, 12000)  # features of 64 and 190 MB, files of 30 and 100 MB
    for before, after in zip(few, many, strict=True):
        assert after < before + 100  # a shard of captions fills up to 16,384; what is read of each pair is 1 kB
