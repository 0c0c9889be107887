"""What some work asks of a GPU, counted without one: operations, waits of the host for the device, and copied bytes.

The work computes on torch's device `meta`, which has shapes and no numbers, in a GPU's place. Whatever reads a number
there fails, so that no wait for one can be missed. On the CPU the same counts hold, but that copies are none.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_READS = ("_local_scalar_dense", "item", "nonzero", "_unique2", "unique_dim", "unique_consecutive", "equal")
_VIEWS = ("view", "_unsafe_view", "t", "transpose", "permute", "expand", "unsqueeze", "squeeze", "select", "slice")
_VIEWS += ("split", "split_with_sizes", "unbind", "detach", "alias", "lift_fresh", "as_strided", "chunk")
_MADE_FROM_NUMBERS = (torch.tensor, torch.as_tensor)


@dataclass
class Counts:
    """What was asked for."""

    operations: Counter[str] = field(default_factory=Counter)
    """Of torch, by name."""
    waits: Counter[str] = field(default_factory=Counter)
    """Those for which the host waits until the device has done all that came before, by name."""
    copies: int = 0
    """From the host to the device."""
    copied_bytes: int = 0

    @property
    def total(self) -> int:
        """All operations."""
        return self.operations.total()

    @property
    def launches(self) -> int:
        """Operations that compute something: about a GPU's kernels."""
        return self.total - sum(self.operations[name] for name in _VIEWS)

    def note_copy(self, source: Tensor, *, waits: bool) -> None:
        """Count a copy from the host."""
        self.copies, self.copied_bytes = self.copies + 1, self.copied_bytes + source.nbytes
        if waits:
            self.waits["copy to the device"] += 1


def counted(work: Callable[[], object]) -> Counts:
    """What a piece of work asks for."""
    counts = Counts()
    with _Numbers(counts), _Operations(counts):
        work()
    return counts


class _Operations(TorchDispatchMode):
    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self._counts = counts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, counts = func._schema.name.removeprefix("aten::"), self._counts
        result = func(*args, **(kwargs or {}))
        counts.operations[name] += 1
        if name in _READS or (name.startswith("index") and _indexed_by_host(args)):
            counts.waits[name] += 1
        if name in ("_to_copy", "copy_"):
            source = args[1] if name == "copy_" else args[0]
            place = 2 if name == "copy_" else len(args)
            blocking = not (args[place] if len(args) > place else (kwargs or {}).get("non_blocking", False))
            if _on_device(result) and not _on_device(source):
                counts.note_copy(source, waits=blocking)
        return result


class _Numbers(TorchFunctionMode):
    """Tensors made on the device from numbers, and numbers made of tensors: waits of which no operation tells."""

    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self._counts = counts

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _MADE_FROM_NUMBERS and _on_device(result) and not isinstance(args[0], Tensor):
            self._counts.note_copy(result, waits=True)
        if func is Tensor.tolist:
            self._counts.waits["tolist"] += 1
        return result


def _on_device(tensor: Tensor) -> bool:
    return tensor.device.type != "cpu"


def _indexed_by_host(args: Any) -> bool:
    """Whether an index of a tensor is one of truths, or lies on the host while the tensor does not."""
    indices = list(_tensors(args[1:]))
    truths = any(index.dtype == torch.bool for index in indices)
    return truths or (_on_device(args[0]) and not all(map(_on_device, indices)))


def _tensors(parts: Any) -> Iterator[Tensor]:
    for part in parts:
        if isinstance(part, Tensor):
            yield part
        elif isinstance(part, list | tuple):
            yield from _tensors(part)
