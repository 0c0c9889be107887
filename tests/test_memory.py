import gc
import subprocess
import sys
import weakref
from collections.abc import Callable

import pytest
import torch

from raydd.memory import free_bytes, kept_by_autograd, use_gpu_share

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


@pytest.fixture
def shares(monkeypatch: pytest.MonkeyPatch) -> dict[int, float]:
    """The shares of two GPUs that this process may use. Only what asks the driver is replaced, not torch's checks."""
    shares = {0: 1.0, 1: 1.0}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda.memory, "_lazy_init", lambda: None)
    monkeypatch.setattr(
        torch._C, "_cuda_setMemoryFraction", lambda share, device: shares.update({device: share}), raising=False
    )
    monkeypatch.setattr(torch._C, "_cuda_getMemoryFraction", lambda device: shares[device], raising=False)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (60, 80))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 5)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 8)
    return shares


def test_a_process_with_a_share_of_a_gpu_counts_on_no_more(shares: dict[int, float]) -> None:
    assert free_bytes("cuda") == 63  # what nobody has, and this process's freed blocks
    use_gpu_share(0.25)
    assert free_bytes("cuda") == 15
    for share in (0.0, 1.0, 2.0):  # on a CPU, and whole GPUs
        use_gpu_share(share)
    assert shares == {0: 0.25, 1: 1.0}


def test_free_memory_is_that_of_the_named_gpu_or_of_the_current_one(shares: dict[int, float]) -> None:
    shares[1] = 0.5
    assert [free_bytes(device) for device in ("cuda", "cuda:0", "cuda:1", "cpu")] == [63, 63, 35, 0]


@pytest.mark.parametrize(
    "work", [torch.exp, torch.relu, torch.sin], ids=["exp keeps its output", "relu too", "sin its input"]
)
def test_a_graph_that_is_counted_is_freed_with_its_result(work: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Operations that keep their output, as exp does, must not keep the tensor that holds their own graph."""
    leaf = torch.linspace(-1, 1, 8).requires_grad_()
    result, nbytes = kept_by_autograd(lambda: work(work(leaf)), excluded=(leaf,))
    (gradient,) = torch.autograd.grad(result.sum(), leaf, retain_graph=True)
    expected = torch.autograd.grad(work(work(leaf)).sum(), leaf)[0]
    assert torch.equal(gradient, expected)
    assert nbytes == 8 * 4 * (1 if work is torch.sin else 2)
    node = weakref.ref(result)
    del result
    gc.collect()
    assert node() is None
