"""What is count_operations as a wait, a copy and a launch; `meta` stands for a GPU."""

from collections.abc import Callable

import pytest
import torch

from bench.counting import count_operations

ROWS, HERE = torch.ones(4, 3, device="meta"), torch.ones(4, 3)
PLACES = torch.tensor([0, 2])


@pytest.mark.parametrize(
    "work",
    [
        lambda: HERE.sum().item(),
        lambda: float(HERE.sum()),
        lambda: HERE.sum().tolist(),
        lambda: HERE.unique(),
        lambda: HERE.nonzero(),
        lambda: HERE[HERE > 0],
        lambda: ROWS[PLACES],
        lambda: torch.linalg.solve(torch.eye(3), HERE.T),
        lambda: HERE.to("meta"),
        lambda: torch.empty_like(ROWS).copy_(HERE),
        lambda: torch.tensor([1.0, 2.0], device="meta"),
    ],
)
def test_a_wait_is_seen(work: Callable[[], object]) -> None:
    assert count_operations(work).waits.total() == 1


def test_a_queued_copy_is_no_wait() -> None:
    found = count_operations(lambda: HERE.to("meta", non_blocking=True))
    assert (found.copies, found.copied_bytes, found.waits.total()) == (1, 48, 0)
    found = count_operations(lambda: torch.empty_like(ROWS).copy_(HERE, non_blocking=True))
    assert (found.copies, found.waits.total()) == (1, 0)


def test_what_stays_on_its_side_is_neither() -> None:
    indices = PLACES.to("meta")
    found = count_operations(
        lambda: (ROWS[indices], HERE[PLACES], ROWS[1], HERE.clone(), torch.tensor([1.0]), HERE.double())
    )
    assert (found.copies, found.waits.total()) == (0, 0)


def test_launches_are_operations_but_views() -> None:
    found = count_operations(lambda: (ROWS.T @ ROWS).view(-1)[1:].relu())
    assert (found.launches, found.total) == (2, 5)


def test_what_reads_a_number_on_the_device_fails() -> None:
    with pytest.raises((RuntimeError, NotImplementedError)):
        count_operations(lambda: ROWS.sum().item())
