"""Expert trajectories: prefix, extension, repetition, and what is stored."""

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from small_pairs import IMAGE_WIDTH, RECIPE, TEXT_WIDTH, WIDTH, Split, open_experts
from torch import Generator

from bench.asked import as_on_gpu
from bench.counting import count_operations
from raydd.config import DistillConfig, ExpertsConfig
from raydd.data.feature_rows import CaptionRows, FeatureRows
from raydd.data.features import SplitFeatures
from raydd.distill import experts as module
from raydd.distill.content import named_loss
from raydd.distill.experts import Experts, Heads, contrastive_loss, expert_loss, sgd_step_, train_epoch_, train_experts
from raydd.distill.heads import Head, embed, head_size, initial_heads, split_heads
from raydd.distill.losses import find_loss
from raydd.distill.trajectories import content_of, extend
from raydd.errors import NonFiniteError, RecordError
from raydd.store import Record, Store

SIGLIP = f"{Path(__file__).parents[2] / 'docs/examples/own_loss.py'}:LOSS"


def same(one: tuple[Head, Head], other: tuple[Head, Head]) -> bool:
    return all(torch.equal(a.flat(), b.flat()) for a, b in zip(one, other, strict=True))


def test_longer_asking_extends_and_shorter_reads_a_prefix(tmp_path: Path, train_split: Split, experts: Experts) -> None:
    opened, epochs = open_experts(tmp_path), []
    train_experts(
        opened, [0], train_split, RECIPE, [2], device="cpu", on_epoch=lambda expert, epoch, _: epochs.append(epoch)
    )
    assert same(opened.snapshot(0, 2), experts.snapshot(0, 2))
    train_experts(
        opened, [0], train_split, RECIPE, [2, 4], device="cpu", on_epoch=lambda expert, epoch, _: epochs.append(epoch)
    )
    assert epochs == [1, 2, 3, 4]  # went on from epoch 2, and epochs 1 and 3 left nothing in the store
    assert [epoch for epoch in range(5) if opened.has(0, epoch)] == [0, 2, 4]
    assert same(opened.snapshot(0, 4), experts.snapshot(0, 4))
    train_experts(
        opened, [0], train_split, RECIPE, [1], device="cpu", on_epoch=lambda expert, epoch, _: epochs.append(epoch)
    )
    assert epochs[4:] == [1]


def test_snapshots_differ_and_the_initial_state_is_not_trained(experts: Experts) -> None:
    flats = [experts.snapshot(0, epoch)[0].flat() for epoch in range(5)]
    assert all(not torch.equal(a, b) for a, b in itertools.pairwise(flats))
    assert same(experts.snapshot(0, 0), initial_heads(experts.image_width, TEXT_WIDTH, experts.width, 0))
    assert not same(experts.snapshot(0, 4), experts.snapshot(1, 4))


def test_training_lowers_the_loss(experts: Experts, val_split: Split) -> None:
    def loss(epoch: int) -> float:
        image, text = experts.snapshot(0, epoch)
        first = torch.arange(0, 80, 2)
        images = val_split.images.gather(val_split.image_of_text[first], 0)
        return float(contrastive_loss(embed(image, images) @ embed(text, val_split.texts[first].float()).T / 0.07))

    assert loss(4) < 0.8 * loss(0)


@pytest.mark.parametrize("name", ["bce", SIGLIP])
def test_experts_train_on_their_own_loss_and_their_record_says_so(train_split: Split, name: str) -> None:
    recipe = dataclasses.replace(RECIPE, loss=name)
    image, text = initial_heads(IMAGE_WIDTH, TEXT_WIDTH, WIDTH, 0)
    rows, texts = train_split.images.values[:8, 0].float(), train_split.texts[:16:2].float()
    wanted = [part.clone().requires_grad_() for part in (*image, *text)]
    logits = embed(Head(*wanted[:6]), rows) @ embed(Head(*wanted[6:]), texts).T / 0.07
    loss = find_loss(name)(logits, torch.eye(8))  # its parameters as they start
    gradients = torch.autograd.grad(loss, wanted)
    found = sgd_step_(image, text, rows, texts, lr=0.1, temperature=0.07, loss_of=expert_loss(recipe))
    assert float(found) == pytest.approx(float(loss.detach()))
    for part, before, gradient in zip((*image, *text), wanted, gradients, strict=True):
        torch.testing.assert_close(part, before.detach() - 0.1 * gradient, rtol=1e-4, atol=1e-6)
    assert content_of(recipe) == {**content_of(RECIPE), **named_loss(name)}
    assert ("loss_source" in named_loss(name)) == (name == SIGLIP)
    heads = [initial_heads(IMAGE_WIDTH, TEXT_WIDTH, WIDTH, 0) for _ in range(2)]
    losses = [
        train_epoch_(*pair, train_split, used, epoch=1, seeds=[0], device="cpu")
        for pair, used in zip(heads, (RECIPE, recipe), strict=True)
    ]
    assert losses[0] != losses[1]


def test_a_snapshot_takes_two_bytes_a_parameter(experts: Experts) -> None:
    size = len(experts.record.read(experts.name(0, 1)))
    parameters = head_size(experts.image_width, experts.width) + head_size(TEXT_WIDTH, experts.width)
    assert 2 * parameters < size < 2 * parameters + 512


def test_missing_names_the_experts_that_lack_an_epoch(tmp_path: Path, train_split: Split) -> None:
    opened = open_experts(tmp_path, count=3)
    train_experts(opened, [1], train_split, RECIPE, [1, 2], device="cpu")
    assert opened.missing([1]) == [0, 2]
    assert opened.missing([3]) == [0, 1, 2]


def test_a_diverging_expert_ends_with_its_reason(tmp_path: Path, train_split: Split) -> None:
    wild = ExpertsConfig(batch_size=16)
    object.__setattr__(wild, "lr", 1e30)  # more than settings allow
    with pytest.raises(NonFiniteError, match=r"Expert 0 .*Lower experts\.lr"):
        train_experts(open_experts(tmp_path), [0], train_split, wild, [1], device="cpu")


def test_a_damaged_snapshot_is_named(tmp_path: Path, train_split: Split) -> None:
    opened = open_experts(tmp_path)
    train_experts(opened, [0], train_split, RECIPE, [1], device="cpu")
    path = opened.record.local(opened.name(0, 1))
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RecordError, match=r"epoch-001\.safetensors is damaged"):
        opened.snapshot(0, 1)


def test_a_trajectory_of_published_size_takes_at_most_0_11_gb(tmp_path: Path) -> None:
    """Both heads of 2304, start epochs 0 and 1, targets one epoch on: snapshots of epochs 1 and 2."""
    record = Record.of(Store(tmp_path), "experts", {}, {}, version=1)
    published, size = Experts(record, 2304, 768, 2304, first_seed=0, count=1), 0
    epochs = [epoch for epoch in DistillConfig(max_start_epoch=2, target_epochs=1).expert_epochs if epoch]
    for epoch in epochs:
        differences, _ = published.rounded(0, published.initial(0), initial_heads(2304, 768, 2304, seed=epoch))
        record.write_tensors(published.name(0, epoch), differences)
        size += len(record.read(published.name(0, epoch)))
    print(f"\na trajectory of published size: {size / 1e9:.4f} GB")
    assert epochs == [1, 2]
    assert size <= 0.11e9


def test_an_annealed_epoch_takes_ever_smaller_steps(train_split: Split) -> None:
    recipe = dataclasses.replace(RECIPE, anneal=2, dropout=0.0)
    heads, written = (initial_heads(IMAGE_WIDTH, TEXT_WIDTH, WIDTH, 0) for _ in range(2))
    train_epoch_(*heads, train_split, recipe, epoch=2, seeds=[5], device="cpu")

    draws, captions, size = Generator().manual_seed(5), len(train_split.image_of_text), recipe.batch_size
    order = torch.randperm(captions, generator=draws)
    views = torch.randint(train_split.images.shape[1], (captions,), generator=draws)
    steps = captions // size
    for step in range(steps):
        batch = order[step * size : (step + 1) * size]
        rows = train_split.images.gather(train_split.image_of_text[batch], views[step * size : (step + 1) * size])
        lr = recipe.lr * (steps - step) / (2 * steps)  # the second half of a line from lr to zero
        sgd_step_(*written, rows, train_split.texts[batch].float(), lr=lr, temperature=recipe.temperature)
    for head, other in zip(heads, written, strict=True):
        torch.testing.assert_close(head.flat(), other.flat())


def test_an_annealed_trajectory_is_the_same_in_one_go_and_in_two(tmp_path: Path, train_split: Split) -> None:
    recipe = dataclasses.replace(RECIPE, anneal=2)
    at_once, in_two = open_experts(tmp_path / "at-once"), open_experts(tmp_path / "in-two")
    train_experts(at_once, [0], train_split, recipe, [2], device="cpu")
    for epoch in (1, 2):
        train_experts(in_two, [0], train_split, recipe, [epoch], device="cpu")
    assert same(at_once.snapshot(0, 2), in_two.snapshot(0, 2))
    kept = open_experts(tmp_path / "kept")
    train_experts(kept, [0], train_split, RECIPE, [2], device="cpu")
    assert not same(at_once.snapshot(0, 2), kept.snapshot(0, 2))


def cached(split: Split) -> SplitFeatures:
    """The same features in shards, as the store has them."""
    images = FeatureRows(tuple(split.images.values.split(30)), 30)
    return SplitFeatures(images, CaptionRows(tuple(split.texts.split(64)), 64), split.image_of_text)


def test_features_on_a_device_are_those_of_the_shards(train_split: Split) -> None:
    features, rows = cached(train_split), torch.tensor([79, 3, 30, 3])
    moved, views = features.on("cpu"), torch.tensor([1, 0, 1, 1])
    assert torch.equal(moved.images.gather(rows, views), features.images.gather(rows, views))
    assert torch.equal(moved.texts[rows], features.texts[rows])
    assert features.nbytes == moved.nbytes == train_split.images.values.nbytes + train_split.texts.nbytes


@pytest.mark.parametrize("loss", ["infonce", "wbce"])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_experts_side_by_side_are_those_that_train_alone(train_split: Split, loss: str, dropout: float) -> None:
    recipe, seeds = dataclasses.replace(RECIPE, loss=loss, dropout=dropout, anneal=3), [7, 8, 9]
    alone = [initial_heads(IMAGE_WIDTH, TEXT_WIDTH, WIDTH, seed) for seed in seeds]
    image, text = (module.copies_on(heads, "cpu") for heads in zip(*alone, strict=True))
    losses = train_epoch_(image, text, train_split, recipe, epoch=1, seeds=seeds, device="cpu")
    for expert, (heads, seed) in enumerate(zip(alone, seeds, strict=True)):
        own = train_epoch_(*heads, train_split, recipe, epoch=1, seeds=[seed], device="cpu")
        torch.testing.assert_close(losses[expert], own)
        for together, head in zip((image, text), heads, strict=True):
            torch.testing.assert_close(split_heads(together)[expert].flat(), head.flat())


def test_experts_that_lack_the_same_epochs_are_trained_together(tmp_path: Path) -> None:
    opened = open_experts(tmp_path)
    asked: list[tuple[int, list[int]]] = []

    def train_epoch(states: Sequence[Heads], epoch: int, seeds: Sequence[int]) -> tuple[list[float], list[Heads]]:
        asked.append((epoch, [seed // 1_000_003 for seed in seeds]))
        return [0.0] * len(states), list(states)

    extend(opened, [1], [2], train_epoch)
    extend(opened, range(4), [2, 3], train_epoch, at_once=2)
    assert asked == [
        (1, [1]),
        (2, [1]),
        *((epoch, [0, 2]) for epoch in (1, 2, 3)),
        (1, [3]),
        (2, [3]),
        (3, [3]),
        (3, [1]),
    ]
    assert all(opened.has_all(expert, [2, 3]) for expert in range(4))


def test_experts_are_drawn_once_and_only_wanted_snapshots_are_copied(
    tmp_path: Path, train_split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between epochs the experts stay where they train, with the same rounding as on the CPU."""
    drawn, copied, draw, copy = list[int](), list[str](), module.initial_heads, torch.Tensor.cpu
    monkeypatch.setattr(module, "initial_heads", lambda *given: drawn.append(given[-1]) or draw(*given))
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: copied.append(str(tensor.dtype)) or copy(tensor))
    module._draw_initial_heads.cache_clear()
    placed = list[Heads]()
    extend(
        open_experts(tmp_path / "beside", count=3, first_seed=50),
        range(3),
        [1],
        lambda states, *_: ([0.0] * 3, states),
        at_once=3,
        on_device=lambda heads: placed.append(heads) or heads,
    )
    assert drawn == [50, 51, 52]
    assert len(placed) == 2 * 3  # where each starts from, and where it is
    copied.clear()
    opened = open_experts(tmp_path, count=3, first_seed=50)
    module.train_experts(opened, range(3), train_split, RECIPE, [2, 4], device="cpu")
    assert copied == ["torch.float16"] * 3 * 2 * 2  # experts, snapshots and sides
    in_two = open_experts(tmp_path / "in two", count=3, first_seed=50)
    for epochs in ([2], [2, 4]):
        module.train_experts(in_two, range(3), train_split, RECIPE, epochs, device="cpu")
    for ours, theirs in zip(opened.snapshot(2, 4), in_two.snapshot(2, 4), strict=True):
        assert torch.equal(ours.flat(), theirs.flat())


def test_as_many_experts_as_fit_trainside_by_side(experts: Experts) -> None:
    parameters = head_size(IMAGE_WIDTH, WIDTH) + head_size(TEXT_WIDTH, WIDTH)
    assert [module.most_at_once(experts, room * 20 * parameters) for room in (0, 3, 100)] == [1, 3, 8]


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("together", [1, 4])
def test_an_epoch_waits_for_nothing(train_split: Split, there: bool, together: int) -> None:
    features = cached(train_split).on("meta") if there else cached(train_split)
    heads = initial_heads(IMAGE_WIDTH, TEXT_WIDTH, WIDTH, 0)
    image, text = (module.copies_on([head] * together, "meta") for head in heads)
    with as_on_gpu():
        seen = count_operations(
            lambda: train_epoch_(image, text, features, RECIPE, epoch=1, seeds=range(together), device="meta")
        )
    steps = len(train_split.image_of_text) // RECIPE.batch_size
    assert seen.copies == (2 if there else 2 * steps)  # the epoch's draws, or each step's rows
    host = {"unique_consecutive", "tolist"}  # of shards on the host
    assert not set(seen.waits) - (set() if there else host)


@pytest.mark.parametrize(("free", "copied"), [(10**9, True), (100, False)])
def test_features_go_to_a_gpu_that_has_room(
    tmp_path: Path, train_split: Split, monkeypatch: pytest.MonkeyPatch, free: int, copied: bool
) -> None:
    asked: list[str] = []
    features = cached(train_split)
    monkeypatch.setattr(module, "free_bytes", lambda device: free)
    monkeypatch.setattr(SplitFeatures, "on", lambda own, device: asked.append(device) or own)
    monkeypatch.setattr(module, "extend", lambda *_, **__: None)
    train_experts(open_experts(tmp_path), [0], features, RECIPE, [1], device="meta")
    assert asked == (["meta"] if copied else [])
