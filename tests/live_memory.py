"""The bytes of live tensors at their peak, counted operation by operation: exact, unlike a process's memory."""

from collections.abc import Callable
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Watch(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self._live: dict[int, tuple[StorageWeakRef, int]] = {}
        self._at_most, self.peak = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                known = self._live.get(storage._cdata)
                self._at_most += storage.nbytes() - (known[1] if known else 0)
                self._live[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        if self._at_most > self.peak:  # the dead are looked for only where they could hide a peak
            self._live = {key: kept for key, kept in self._live.items() if not kept[0].expired()}
            self._at_most = sum(nbytes for _, nbytes in self._live.values())
            self.peak = max(self.peak, self._at_most)
        return result


def peak_of_live_tensors(work: Callable[[], object]) -> int:
    """Most bytes that tensors made by `work` held at once, those kept by graphs included."""
    with _Watch() as watch:
        work()
    return watch.peak
