"""Protocol A's memory against the number of student steps and the size of the minibatch, and half precision."""

import pytest
import torch
from encoder_walks import problem
from live_memory import peak_of_live_tensors

STEPS = (4, 8, 16, 32)


def peak(steps: int, *, exact: bool, at_once: int = 4) -> int:
    given = problem(steps=steps, exact=exact, at_once=at_once)
    return peak_of_live_tensors(given.matching)


def unrolled_peak(steps: int) -> int:
    given = problem(steps=steps)
    pixels = given.pairs.images.requires_grad_()
    return peak_of_live_tensors(lambda: torch.autograd.grad(given.unrolled(), pixels))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_student_steps() -> None:
    constant, exact = ({steps: peak(steps, exact=exact) for steps in STEPS} for exact in (False, True))
    unrolled = {steps: unrolled_peak(steps) for steps in STEPS}
    print("\nstudent steps: peak bytes of constant memory, exact, unrolled")
    for steps in STEPS:
        print(f"{steps:5}: {constant[steps]:10,} {exact[steps]:10,} {unrolled[steps]:10,}")
    plan = (2 * 4 + 1) * 8  # a step's pairs and partners, drawn before, and its loss: numbers of eight bytes
    assert constant[32] <= constant[4] + 28 * plan
    given = problem()
    weights = sum(part.nbytes for side in given.start for part in side.values())
    assert exact[32] <= exact[4] + 28 * (weights + plan)  # the steps' starts, nothing of their graphs
    assert unrolled[32] > 5 * unrolled[4]
    assert unrolled[32] > 5 * exact[32]


def test_memory_is_that_of_the_images_at_once() -> None:
    assert peak(4, exact=False, at_once=1) < 0.7 * peak(4, exact=False, at_once=4)


@pytest.mark.parametrize("exact", [True, False])
def test_half_precision_is_near_single(exact: bool) -> None:
    single = problem(exact=exact).single()
    half = single.at_precision("bfloat16")
    gradients = [given.matching().gradients["image"] for given in (single, half)]
    assert gradients[1].dtype == torch.float32
    assert not torch.equal(*gradients)
    assert float(torch.cosine_similarity(gradients[0].flatten(), gradients[1].flatten(), dim=0)) > 0.97
