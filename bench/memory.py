"""Measures the peak memory of one side of a row in a separate process: `python -m bench.memory ROW SIDE THREADS`."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path


def peak_of(row: str, side: str, *, threads: int) -> int:
    """Return the bytes that a side's pieces add at their peak to a new process that holds the inputs of both sides."""
    command = [sys.executable, "-m", "bench.memory", row, side, str(threads)]
    process = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(process.stdout.splitlines()[-1])


def main(row: str, side: str, threads: str) -> None:
    """Measure the peak memory of one side of a row, and print it."""
    import torch

    from bench.measuring import FULL, peak_bytes
    from bench.rows import ROWS

    torch.set_num_threads(int(threads))
    make_pieces = next(entry.pieces for entry in ROWS if entry.name == row)
    assert make_pieces is not None
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(peak_bytes(make_pieces(FULL, Path(folder)), side)))


if __name__ == "__main__":
    main(*sys.argv[1:])
