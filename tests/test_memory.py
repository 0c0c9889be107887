import subprocess
import sys

FAULTS = """
import resource
import sys

from raydd.memory import keep_freed_blocks

if "keep" in sys.argv:
    keep_freed_blocks()
import torch

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

torch.ones(4_000_000)
before = faults()
for _ in range(20):
    torch.ones(4_000_000)
print(faults() - before)
"""


def _faults(*words: str) -> int:
    """Pages mapped anew for twenty blocks of 16 MB, taken and freed in turn by a process of its own."""
    run = subprocess.run([sys.executable, "-c", FAULTS, *words], capture_output=True, text=True, check=True)
    return int(run.stdout)


def test_freed_blocks_are_used_again_without_new_pages() -> None:
    assert _faults("keep") < 100 < _faults()
