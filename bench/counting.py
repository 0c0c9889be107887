"""Counts operations, waits of the host for the device, and copied bytes of some work, without a GPU.

The work runs on torch's device `meta` instead of a GPU. Tensors on `meta` have shapes but no values, so code that reads
a value there fails, and no wait for a value can be missed. On the CPU the counts are the same, except that there are no
copies.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_WAITING_OPERATIONS = (
    "_local_scalar_dense",
    "item",
    "nonzero",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "equal",
    "_linalg_check_errors",
)
_VIEWS = ("view", "_unsafe_view", "t", "transpose", "permute", "expand", "unsqueeze", "squeeze", "select", "slice")
_VIEWS += ("split", "split_with_sizes", "unbind", "detach", "alias", "lift_fresh", "as_strided", "chunk")
_TENSOR_CONSTRUCTORS = (torch.tensor, torch.as_tensor)


@dataclass
class Counts:
    """The counts of a piece of work."""

    operations: Counter[str] = field(default_factory=Counter)
    """Torch operations, by name."""
    waits: Counter[str] = field(default_factory=Counter)
    """Operations for which the host waits until the device has finished all earlier work, by name."""
    copies: int = 0
    """Copies from the host to the device."""
    copied_bytes: int = 0

    @property
    def total(self) -> int:
        """Number of all operations."""
        return self.operations.total()

    @property
    def launches(self) -> int:
        """Number of operations that compute something: about the number of kernels of a GPU."""
        return self.total - sum(self.operations[name] for name in _VIEWS)

    def note_copy(self, source: Tensor, *, waits: bool) -> None:
        """Count a copy from the host to the device."""
        self.copies, self.copied_bytes = self.copies + 1, self.copied_bytes + source.nbytes
        if waits:
            self.waits["copy to the device"] += 1


def count_operations(work: Callable[[], object]) -> Counts:
    """Run a piece of work, and return its counts."""
    counts = Counts()
    with _NumberCounter(counts), _OperationCounter(counts):
        work()
    return counts


class _OperationCounter(TorchDispatchMode):
    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self._counts = counts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, counts = func._schema.name.removeprefix("aten::"), self._counts
        result = func(*args, **(kwargs or {}))
        counts.operations[name] += 1
        if name in _WAITING_OPERATIONS or (name.startswith("index") and _indexed_by_host(args)):
            counts.waits[name] += 1
        if name in ("_to_copy", "copy_"):
            source = args[1] if name == "copy_" else args[0]
            position = 2 if name == "copy_" else len(args)
            blocking = not (args[position] if len(args) > position else (kwargs or {}).get("non_blocking", False))
            if _on_device(result) and not _on_device(source):
                counts.note_copy(source, waits=blocking)
        return result


class _NumberCounter(TorchFunctionMode):
    """Counts tensors made on the device from numbers, and numbers read by `tolist`: no operation shows these waits."""

    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self._counts = counts

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _TENSOR_CONSTRUCTORS and _on_device(result) and not isinstance(args[0], Tensor):
            self._counts.note_copy(result, waits=True)
        if func is Tensor.tolist:
            self._counts.waits["tolist"] += 1
        return result


def _on_device(tensor: Tensor) -> bool:
    return tensor.device.type != "cpu"


def _indexed_by_host(args: Any) -> bool:
    """Whether a tensor is indexed by booleans, or by a tensor on the host while the tensor is on the device."""
    indices = list(_nested_tensors(args[1:]))
    has_booleans = any(index.dtype == torch.bool for index in indices)
    return has_booleans or (_on_device(args[0]) and not all(map(_on_device, indices)))


def _nested_tensors(parts: Any) -> Iterator[Tensor]:
    for part in parts:
        if isinstance(part, Tensor):
            yield part
        elif isinstance(part, list | tuple):
            yield from _nested_tensors(part)
