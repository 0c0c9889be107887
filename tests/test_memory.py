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


THREADS = """
import sys
import threading

import psutil
import torch

from raydd.memory import return_freed_blocks

kept = []

def work():
    blocks = [torch.ones(25_000) for _ in range(1000)]  # 100 kB each, of the thread's own part of memory
    kept.append(blocks[-1])  # what stays last keeps the others from going back by themselves

for _ in range(3):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
if "return" in sys.argv:
    return_freed_blocks()
print(psutil.Process().memory_info().rss)
"""


def test_what_threads_have_freed_goes_back_when_it_is_told_to() -> None:
    kept, returned = (
        int(subprocess.run([sys.executable, "-c", THREADS, *words], capture_output=True, text=True, check=True).stdout)
        for words in ([], ["return"])
    )
    assert kept - returned > 80e6
