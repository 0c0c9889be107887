"""What holds of every objective: its gradient, that it learns, goes on bit for bit, and reads what it says."""

from typing import Any

import pytest
import torch
from small_distillations import BASE, begin, begun, pixel_run, read, spread_of
from small_pairs import Split
from torch import Tensor

from bench.counting import count_operations
from raydd.distill.engine import Distillation
from raydd.distill.experts import Experts
from raydd.distill.heads import Head, head_size
from raydd.distill.image_variables import LearnedFeatures
from raydd.distill.matching import LearnedPairs, StepLoss
from raydd.distill.objectives import RealPairs
from raydd.errors import ConfigError

WITHOUT_STUDENTS = ["covariance", "projector", "ridge", "distribution", "gradient"]
SMALL: dict[str, Any] = {"real_minibatch": 160, "steps": 40, "text_lr": 0.1}


def doubled(run: Distillation, *, similar: bool) -> LearnedPairs:
    """The run's pairs in double precision, moved away from where they started so that no gradient is small."""
    generator = torch.Generator().manual_seed(5)

    def moved(value: Tensor) -> Tensor:
        return (
            value.detach().double() + 0.1 * torch.randn(value.shape, generator=generator, dtype=torch.float64)
        ).requires_grad_()

    pairs = run._current_pairs()
    return LearnedPairs.of(
        {name: moved(value) for name, value in pairs.tensors.items() if similar or not name.startswith("similarity.")},
        pairs.similarity,
    )


@pytest.mark.parametrize("objective", ["ridge", "gradient"])
def test_the_identity_is_of_the_pairs_type_and_where_they_are(
    train_split: Split, experts: Experts, objective: str
) -> None:
    run = begin(train_split, experts, objective=objective, similarity="identity", **SMALL)
    found = run.objective.draw(3)(doubled(run, similar=False)).gradients
    assert {gradient.dtype for gradient in found.values()} == {torch.float64}


@pytest.mark.parametrize("objective", WITHOUT_STUDENTS)
def test_the_gradient_equals_finite_differences(train_split: Split, experts: Experts, objective: str) -> None:
    run = begin(train_split, experts, objective=objective, **SMALL)
    loss_of, pairs, step = run.objective.draw(3), doubled(run, similar=True), 1e-5
    found = loss_of(pairs).gradients
    wanted = {"image", "text"}
    if objective in ("ridge", "gradient"):
        wanted |= {"similarity.diagonal", "similarity.left", "similarity.right"}
    wanted |= {f"objective.{name}" for name in run.objective.learned}
    assert found.keys() == wanted
    generator = torch.Generator().manual_seed(6)
    for name, gradient in found.items():
        direction = torch.randn(gradient.shape, generator=generator, dtype=torch.float64)

        def loss(sign: int, name: str = name, direction: Tensor = direction) -> float:
            tensors = {key: value.detach() for key, value in pairs.tensors.items()}
            tensors[name] = (tensors[name] + sign * step * direction).requires_grad_()
            return read(loss_of(LearnedPairs.of(tensors, pairs.similarity))).loss

        slope = float((gradient * direction).sum())
        assert abs(slope) > 1e-6
        assert slope == pytest.approx((loss(1) - loss(-1)) / (2 * step), rel=1e-5, abs=1e-9), name


@pytest.mark.parametrize("objective", WITHOUT_STUDENTS)
def test_it_learns_and_leaves_the_students_learning_rates(train_split: Split, experts: Experts, objective: str) -> None:
    run = begin(train_split, experts, objective=objective, **SMALL)
    metrics = [run.step() for _ in range(40)]
    assert sum(step["loss"] for step in metrics[-10:]) < 0.9 * sum(step["loss"] for step in metrics[:10])
    assert "student_loss/first" not in metrics[0]
    made = run.synthetic()
    assert (made.rate_image, made.rate_text) == pytest.approx((BASE.start_rate, BASE.start_rate))
    assert all(bool(part.isfinite().all()) for part in made.tensors().values())


@pytest.mark.parametrize("objective", WITHOUT_STUDENTS)
def test_going_on_from_a_checkpoint_is_bit_exact(train_split: Split, experts: Experts, objective: str) -> None:
    whole, first, second = (begin(train_split, experts, objective=objective, **SMALL) for _ in range(3))
    for _ in range(5):
        whole.step()
    for _ in range(2):
        first.step()
    second.resume({name: value.clone() for name, value in first.state().items()})
    for _ in range(3):
        second.step()
    for name, value in whole.state().items():
        assert torch.equal(value, second.state()[name]), name


@pytest.mark.parametrize("objective", WITHOUT_STUDENTS)
def test_pixels_are_moved_through_the_frozen_encoder(train_split: Split, experts: Experts, objective: str) -> None:
    run = pixel_run(train_split, experts, every=2, objective=objective, **SMALL)
    start = run.synthetic().pixels
    losses = [run.step()["loss"] for _ in range(30)]
    assert sum(losses[-6:]) < sum(losses[:6])
    assert not torch.equal(torch.as_tensor(run.synthetic().pixels), torch.as_tensor(start))


@pytest.mark.parametrize(
    ("objective", "operations", "waits"),
    [
        ("covariance", 150, 9),
        ("projector", 250, 10),
        ("ridge", 400, 16),
        ("distribution", 630, 12),
        ("gradient", 1_000, 12),
    ],
)
def test_a_step_takes_few_operations_and_waits_however_many_pairs_there_are(
    train_split: Split, experts: Experts, objective: str, operations: int, waits: int
) -> None:
    for pairs in (12, 24):
        run = begin(train_split, experts, objective=objective, pairs=pairs, real_minibatch=4 * pairs)
        run.step()
        seen = count_operations(run.step)
        assert seen.total <= operations
        assert seen.waits.total() <= waits


@pytest.mark.parametrize("objective", ["covariance", "projector"])
def test_real_pairs_are_read_by_the_first_step(
    train_split: Split, experts: Experts, objective: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A phase without steps, such as the pixels' after the features', does not read them."""
    read, chunks_of = [], RealPairs.chunks_of

    def noted(real: RealPairs, captions: Tensor) -> Any:
        read.append(len(captions))
        return chunks_of(real, captions)

    monkeypatch.setattr(RealPairs, "chunks_of", noted)
    run = begin(train_split, experts, objective=objective, **SMALL)
    run.synthetic()
    assert not read
    run.step()
    assert sum(read) == len(train_split.texts)
    run.step()
    assert sum(read) == len(train_split.texts)


@pytest.mark.parametrize("objective", WITHOUT_STUDENTS)
def test_a_step_on_a_gpu_waits_for_nothing(
    train_split: Split, experts: Experts, objective: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to its loss; `meta` stands for the GPU, and has no random generators of its own."""

    def heads_on_gpu(width_in: int, width: int, _: object) -> Head:
        return Head.of_flat(torch.empty(head_size(width_in, width), device="meta"), width_in, width)

    monkeypatch.setattr("raydd.distill.objectives.gradient.Generator", lambda *_: torch.Generator())
    monkeypatch.setattr("raydd.distill.objectives.gradient.initial_head", heads_on_gpu)
    monkeypatch.setattr(StepLoss, "of", lambda loss, *_: loss)
    run = begin(train_split, experts, "meta", objective=objective, similarity="identity", steps=40)
    pairs = run._current_pairs()
    for step in range(40):  # reads what is read once
        run.objective.draw(step)(pairs)
    assert not count_operations(lambda: run.objective.draw(40)(pairs)).waits


def test_an_objective_that_lacks_the_real_pairs_says_so(train_split: Split, experts: Experts) -> None:
    config: Any = begin(train_split, experts, objective="ridge").config
    spread = spread_of(train_split)
    with pytest.raises(ConfigError, match=r"distill\.objective ridge reads cached features"):
        Distillation(
            begun(train_split, config),
            experts,
            config,
            LearnedFeatures(spread),
            text_spread=torch.zeros(2, 9),
            temperature=0.07,
        )
