"""Slots that step together: as each alone, whatever the neighbours; and nothing in a step waits for the device."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_distillations import BASE, SIGLIP, begin, pixel_run
from small_pairs import Split
from torch import Tensor

from bench.counting import count_operations
from raydd.distill import legs, stack
from raydd.distill.engine import DIVERGED, Distillation
from raydd.distill.experts import Experts, Heads
from raydd.distill.heads import Head
from raydd.distill.population import Population, shape_of, steps_of
from raydd.errors import ConfigError, NonFiniteError, RecordError

State = dict[str, Tensor]
SWITCHES: list[dict[str, Any]] = [
    {},
    {"blend": "none", "similarity": "identity"},
    {"blend": "noise", "loss": "wbce"},
    {"blend": "fixed", "similarity": "full"},
    {"blend_sides": "text", "student_steps": 2, "minibatch": 5},  # fewer rows than pairs
    {"gradient": "constant-memory", "merged": True, "loss": "bce"},
    {"matched": "text-head", "minibatch_order": "random", "image_lr": 0.0},
    {"loss": SIGLIP},
    {
        "optimizer": "sgd",
        "loss": "wbce",
        "image_lr": 0.005,
        "text_lr": 0.005,
        "similarity_lr": 0.001,
        "schedule": "constant",
    },
]
# Numbers of three slots, which must not mix: all that may differ within a population.
NUMBERS: list[dict[str, Any]] = [
    {"seed": 0, "text_target_epochs": 1},
    {"seed": 1, "start_rate": 0.1, "momentum": 0.9, "range_pull": 0.5, "steps": 40, "schedule": "constant"},
    {"seed": 2, "start_rate": 0.05, "alpha": 0.3, "target_epochs": 1, "max_start_epoch": 2, "blend_beta": 0.4},
]


class Precise(Experts):
    """The same experts in double precision."""

    def snapshot(self, expert: int, epoch: int) -> Heads:
        image, text = (Head(*(part.double() for part in head)) for head in super().snapshot(expert, epoch))
        return image, text


def precise(split: Split, experts: Experts, **changes: Any) -> Distillation:
    """A distillation in double precision, in which rounding tells no two ways of computing apart."""
    own = begin(split, Precise(**vars(experts)), **changes)
    for variable in own.variables.values():
        variable.data = variable.data.double()
    own.units = replace(own.units, by_name={name: unit.double() for name, unit in own.units.by_name.items()})
    low, high = own.outer.range
    own.outer = replace(own.outer, range=(low.double(), high.double()))
    own.moments = {name: own.outer.initial_moments(name, own.variables[name]) for name in own.moments}
    return own


def filled(distillations: Sequence[Distillation]) -> Population:
    population = Population()
    assert [population.fill(own) for own in distillations] == list(range(len(distillations)))
    return population


def step(population: Population, times: int) -> None:
    for _ in range(times):
        population.step()


def require_same(one: State, other: State, tolerance: float) -> None:
    assert set(one) == set(other)
    for name, value in one.items():
        assert value.shape == other[name].shape, name
        scale = float(value.double().norm())
        assert float((value.double() - other[name].double()).norm()) <= tolerance * scale, name


@pytest.mark.parametrize("changes", SWITCHES, ids=str)
def test_every_slot_does_what_its_distillation_does_alone(
    train_split: Split, experts: Experts, changes: dict[str, Any]
) -> None:
    alone = [precise(train_split, experts, **{**numbers, **changes}) for numbers in NUMBERS]
    population = filled([precise(train_split, experts, **{**numbers, **changes}) for numbers in NUMBERS])
    step(population, 5)
    for slot, news in population.news().items():
        assert news.error is None
        for told in news.steps:
            assert told == pytest.approx(alone[slot].step(), rel=1e-7)
        assert len(news.steps) == alone[slot].done == 5
        require_same(alone[slot].state(), population.state(slot), 1e-7)
        assert population.synthetic(slot).tensors().keys() == alone[slot].synthetic().tensors().keys()


def test_a_step_in_single_precision_is_the_same_to_rounding(train_split: Split, experts: Experts) -> None:
    alone = [begin(train_split, experts, **numbers) for numbers in NUMBERS]
    population = filled([begin(train_split, experts, **numbers) for numbers in NUMBERS])
    population.step()
    for slot, news in population.news().items():
        assert news.steps == [pytest.approx(alone[slot].step(), rel=1e-5)]
        require_same(alone[slot].state(), population.state(slot), 4e-5)  # Adam keeps squares, which double it


def test_batched_products_give_the_same_as_one_after_the_other(
    train_split: Split, experts: Experts, monkeypatch: pytest.MonkeyPatch
) -> None:
    populations = [filled([precise(train_split, experts, **numbers) for numbers in NUMBERS]) for _ in range(2)]
    step(populations[0], 3)
    monkeypatch.setattr(legs, "stacked", tuple)  # as large weights on a CPU
    step(populations[1], 3)
    for slot in range(3):
        require_same(populations[0].state(slot), populations[1].state(slot), 1e-8)


@given(
    neighbours=st.lists(st.integers(1, 50), max_size=4),
    stopped=st.integers(0, 5),
    refilled=st.integers(0, 5),
)
@settings(max_examples=12)
def test_neighbours_that_come_and_go_change_nothing(
    train_split: Split, experts: Experts, neighbours: list[int], stopped: int, refilled: int
) -> None:
    alone = precise(train_split, experts)
    for _ in range(6):
        alone.step()
    others = [precise(train_split, experts, seed=seed, start_rate=seed / 50) for seed in neighbours]
    population = filled([precise(train_split, experts), *others])
    for number in range(6):
        if neighbours and number == stopped:
            population.stop(len(neighbours))
        if number == refilled:
            population.fill(precise(train_split, experts, seed=99, steps=2))
        population.step()
    require_same(alone.state(), population.state(0), 1e-7)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_nan_ends_its_slot_alone_before_its_variables_move(
    train_split: Split, experts: Experts, value: float
) -> None:
    ill, well = (filled([begin(train_split, experts, **numbers) for numbers in NUMBERS]) for _ in range(2))
    for population in (ill, well):
        step(population, 2)
    state = ill.state(1)
    state["variable.text"] = state["variable.text"].clone()
    state["variable.text"][0, 0] = value
    ill.resume(1, state)
    kept = {name: tensor.clone() for name, tensor in ill.state(1).items()}
    for population in (ill, well):
        step(population, 3)
    news = ill.news()
    assert isinstance(news[1].error, NonFiniteError)
    assert str(news[1].error).startswith("Step 2: ")
    assert [len(own.steps) for own in news.values()] == [5, 2, 5]
    assert ill.stepping == [0, 2]
    for name, tensor in ill.state(1).items():
        torch.testing.assert_close(tensor, kept[name], rtol=0, atol=0, equal_nan=True, msg=name)
    for slot in (0, 2):
        for name, tensor in well.state(slot).items():
            assert torch.equal(tensor, ill.state(slot)[name]), name


def test_a_slot_that_failed_does_not_step_again_when_a_neighbour_ends(
    train_split: Split, experts: Experts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slot 0 fails once, in its second step; slot 1 ends after three steps, before anybody has read that."""
    population = filled([begin(train_split, experts, seed=seed, steps=steps) for seed, steps in enumerate((9, 3, 9))])
    alone, well = (begin(train_split, experts, seed=seed, steps=9) for seed in (0, 2))
    compute, calls = stack.matching_losses, list[int]()

    def failing_once(*arguments: Any) -> Any:
        losses = compute(*arguments)
        calls.append(len(losses.loss))
        return replace(losses, loss=losses.loss * torch.tensor([math.nan, 1, 1])) if len(calls) == 2 else losses

    monkeypatch.setattr(stack, "matching_losses", failing_once)
    step(population, 5)
    assert calls == [3, 3, 3, 1, 1]
    monkeypatch.undo()
    alone.step()
    for _ in range(5):
        well.step()
    news = population.news()
    assert isinstance(news[0].error, NonFiniteError)
    assert [len(own.steps) for own in news.values()] == [1, 3, 5]
    require_same(alone.state(), population.state(0), 4e-5)
    require_same(well.state(), population.state(2), 4e-4)
    assert population.stepping == [2]


def test_divergence_ends_a_slot_with_the_words_of_the_distillation(train_split: Split, experts: Experts) -> None:
    alone, own = (begin(train_split, experts, start_rate=1e4) for _ in range(2))
    with pytest.raises(NonFiniteError) as error:
        alone.step()
    assert "diverged" in str(error.value)
    population = filled([own, begin(train_split, experts)])
    step(population, 2)
    news = population.news()
    assert str(news[0].error)[:60] == str(error.value)[:60]
    assert news[0].steps == []
    assert max(told["loss"] for told in news[1].steps) < DIVERGED


def test_each_goes_on_from_the_other_s_checkpoint(train_split: Split, experts: Experts) -> None:
    for optimizer in ("adam", "sgd"):
        changes = {"optimizer": optimizer, "image_lr": 0.01, "text_lr": 0.01}
        whole = precise(train_split, experts, **changes)
        for _ in range(9):
            whole.step()
        alone, again = (precise(train_split, experts, **changes) for _ in range(2))
        population = filled(
            [precise(train_split, experts, seed=7, **changes), precise(train_split, experts, **changes)]
        )
        for _ in range(3):
            alone.step()
        population.resume(1, {name: value.clone() for name, value in alone.state().items()})
        step(population, 3)
        again.resume({name: value.clone() for name, value in population.state(1).items()})
        for _ in range(3):
            again.step()
        require_same(whole.state(), again.state(), 1e-7)


def test_a_stopped_slot_goes_on_alone_and_its_place_is_filled(train_split: Split, experts: Experts) -> None:
    whole = precise(train_split, experts)
    for _ in range(6):
        whole.step()
    population = filled([precise(train_split, experts), precise(train_split, experts, seed=1)])
    step(population, 3)
    own = population.stop(0)
    assert population.fill(precise(train_split, experts, seed=2)) == 0
    step(population, 1)
    for _ in range(3):
        own.step()
    require_same(whole.state(), own.state(), 1e-7)


def test_slots_end_at_their_own_number_of_steps(train_split: Split, experts: Experts) -> None:
    population = filled([begin(train_split, experts, steps=steps) for steps in (2, 4)])
    step(population, 6)
    assert [len(news.steps) for news in population.news().values()] == [2, 4]
    assert population.stepping == []
    assert [len(news.steps) for news in population.news().values()] == [0, 0]


@pytest.mark.parametrize("blend", ["beta", "noise"])
def test_a_step_waits_for_nothing_and_takes_few_operations(
    train_split: Split, experts: Experts, monkeypatch: pytest.MonkeyPatch, blend: str
) -> None:
    changes = {"pairs": 50, "minibatch": 0, "student_steps": 8, "rank": 10, "blend": blend}  # as `raydd demo`
    alone = count_operations(begin(train_split, experts, **changes).step)
    assert alone.waits["tolist"] == 1  # a distillation alone reads its numbers together
    populations = {}
    for slots in (1, 16):
        population = populations[slots] = Population("meta")
        for seed in range(slots):
            population.fill(begin(train_split, experts, "meta", seed=seed, **changes))
        population.step()
    monkeypatch.setattr(Experts, "snapshot", None)  # all legs are kept: none is read again
    for slots, population in populations.items():
        seen = count_operations(population.step)
        assert not seen.waits
        assert seen.copies <= 5  # what the steps draw, of all slots together
        assert seen.total <= 4_500 + 50 * slots


def test_a_loss_of_one_s_own_waits_for_nothing(train_split: Split, experts: Experts) -> None:
    population = Population("meta")
    for seed in range(3):
        population.fill(begin(train_split, experts, "meta", seed=seed, loss=SIGLIP))
    population.step()
    assert not count_operations(population.step).waits


def test_snapshots_that_do_not_fit_are_read_again(train_split: Split, experts: Experts) -> None:
    little = Population(legs=legs.Legs("cpu", 1))
    little.fill(precise(train_split, experts))
    step(little, 4)
    plenty = filled([precise(train_split, experts)])
    step(plenty, 4)
    require_same(plenty.state(0), little.state(0), 1e-12)


def test_legs_are_measured_when_they_are_read_alone(experts: Experts, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = []
    nbytes = legs.Leg.nbytes.fget
    monkeypatch.setattr(legs.Leg, "nbytes", property(lambda leg: measured.append(leg) or nbytes(leg)))
    size = nbytes(legs.Leg.read(experts, 0, 0, (1, 1), "cpu"))
    cache, asked = legs.Legs("cpu", 2 * size), [(0, 0), (0, 1), (0, 0), (0, 2), (0, 1), (0, 2)]
    found = [cache.get(experts, *start, (1, 1)) for start in asked]
    assert found[2] is found[0]
    assert found[5] is found[3]
    assert found[4] is not found[1]  # dropped for (0, 2), since (0, 0) was asked for later
    assert len(measured) == 6  # four that are read, and two that are dropped


def test_distillations_of_a_process_read_each_leg_once(
    train_split: Split, experts: Experts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the trials of a process with a GPU do, one after the other."""
    read, reads = legs.Leg.read, list[int]()
    monkeypatch.setattr(legs.Leg, "read", lambda *arguments: reads.append(1) or read(*arguments))
    monkeypatch.setattr("raydd.distill.population.steps_per_read", lambda device: 20)
    legs.shared_legs.cache_clear()
    for seed in (0, 0, 1):
        steps_of(begin(train_split, experts, seed=seed))(3)
    assert len(reads) == experts.count * BASE.max_start_epoch
    legs.shared_legs.cache_clear()
    steps_of(begin(train_split, experts))(3)
    assert len(reads) == 2 * experts.count * BASE.max_start_epoch
    legs.shared_legs.cache_clear()


def test_snapshots_on_a_gpu_take_a_quarter_of_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(legs, "free_bytes", {"cuda": 24_000, "cuda:1": 80_000}.get)
    assert [legs.most_bytes_on(device) for device in ("cuda", "cuda:1", "cpu")] == [6_000, 20_000, legs.KEPT_LEG_BYTES]


def test_a_snapshot_that_is_not_there_ends_its_slot_alone(train_split: Split, experts: Experts) -> None:
    population = filled([begin(train_split, experts), begin(train_split, experts, target_epochs=9)])
    step(population, 2)
    news = population.news()
    assert isinstance(news[1].error, RecordError)
    assert [len(own.steps) for own in news.values()] == [2, 0]


def test_other_shapes_are_refused(train_split: Split, experts: Experts) -> None:
    population = filled([begin(train_split, experts)])
    with pytest.raises(ConfigError, match="shape_of"):
        population.fill(begin(train_split, experts, pairs=13))
    with pytest.raises(ConfigError, match="can only learn features"):
        population.fill(pixel_run(train_split, experts))


def test_a_shape_is_what_decides_shapes() -> None:
    alike: list[dict[str, Any]] = [
        *NUMBERS,
        {"blend": "fixed", "blend_ratio": 0.1},
        {"minibatch_order": "random", "steps": 3, "text_lr": 0.01},
    ]
    unlike: list[dict[str, Any]] = [
        *({name: value} for name, value in (("pairs", 13), ("minibatch", 5), ("student_steps", 5), ("rank", 2))),
        *({"blend": blend} for blend in ("none", "noise")),
        *({"similarity": kind} for kind in ("identity", "full")),
        {"loss": "bce"},
        {"optimizer": "sgd"},
        {"gradient": "constant-memory"},
        {"matched": "text-head"},
        {"merged": True},
        {"image_lr": 0.0},
    ]
    assert {shape_of(replace(BASE, **changes)) for changes in alike} == {shape_of(BASE)}
    assert len({shape_of(replace(BASE, **changes)) for changes in [{}, *unlike]}) == 1 + len(unlike)


def test_only_matching_of_trajectories_steps_side_by_side(train_split: Split, experts: Experts) -> None:
    with pytest.raises(ConfigError, match=r"distill\.objective covariance cannot step side by side"):
        Population().fill(begin(train_split, experts, objective="covariance"))
