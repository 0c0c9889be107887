"""The loop: it learns, it goes on bit for bit, and it stops with its reason."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from small_distillations import BASE, SIGLIP, TinyEncoder, begin, begun, distillation, pixel_run, spread_of
from small_pairs import Split

from bench.counting import count_operations
from raydd.distill import engine, image_variables, legs
from raydd.distill.crops import draw_crops
from raydd.distill.draws import step_seed
from raydd.distill.experts import Experts
from raydd.distill.image_variables import LearnedFeatures, LearnedPixels
from raydd.distill.synthetic import SyntheticSet
from raydd.errors import NonFiniteError, RecordError


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"blend": "none"},
        {"blend": "noise"},
        {"blend": "fixed", "similarity": "full"},
        {"similarity": "identity", "loss": "infonce"},
        {"gradient": "constant-memory", "merged": True, "loss": "bce"},
        {"matched": "text-head", "minibatch_order": "random"},
        {
            "optimizer": "sgd",
            "loss": "wbce",
            "image_lr": 0.005,
            "text_lr": 0.005,
            "similarity_lr": 0.001,
            "schedule": "constant",
        },
    ],
    ids=str,
)
def test_every_switch_lowers_the_matching_loss(train_split: Split, experts: Experts, changes: dict[str, Any]) -> None:
    run = begin(train_split, experts, steps=60, **changes)
    losses = [run.step()["loss"] for _ in range(60)]
    assert sum(losses[-15:]) < 0.95 * sum(losses[:15])
    synthetic = run.synthetic()
    assert min(synthetic.rate_image, synthetic.rate_text) > 0
    assert all(bool(part.isfinite().all()) for part in synthetic.tensors().values())


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_going_on_from_a_checkpoint_is_bit_exact(train_split: Split, experts: Experts, optimizer: str) -> None:
    whole, first, second = (begin(train_split, experts, optimizer=optimizer) for _ in range(3))
    for _ in range(12):
        whole.step()
    for _ in range(5):
        first.step()
    second.resume({name: value.clone() for name, value in first.state().items()})
    for _ in range(7):
        second.step()
    for name, value in whole.synthetic().tensors().items():
        assert torch.equal(value, second.synthetic().tensors()[name]), name
    for name, value in whole.state().items():
        assert torch.equal(value, second.state()[name]), name


def test_a_loss_s_parameter_is_learned_kept_and_gone_on_with(train_split: Split, experts: Experts) -> None:
    whole, first, second = (begin(train_split, experts, loss=SIGLIP) for _ in range(3))
    assert whole.synthetic().loss_parameters == {"bias": -10.0}
    metrics = [whole.step() for _ in range(12)]
    assert {"gradient/loss.bias", "loss_parameter/bias"} <= metrics[-1].keys()
    learned = whole.synthetic()
    assert learned.loss_parameters["bias"] != pytest.approx(-10.0, abs=1e-3)
    for _ in range(5):
        first.step()
    second.resume({name: value.clone() for name, value in first.state().items()})
    for _ in range(7):
        second.step()
    for name, value in whole.state().items():
        assert torch.equal(value, second.state()[name]), name
    read = SyntheticSet.of_tensors(learned.tensors(), learned.facts())
    assert (read.loss, read.loss_parameters) == (SIGLIP, learned.loss_parameters)
    on = replace(BASE, loss=SIGLIP)
    image = LearnedFeatures(spread_of(train_split))
    assert distillation(train_split, read, experts, on, image).synthetic().loss_parameters == learned.loss_parameters
    other = distillation(train_split, read, experts, replace(on, loss="bce"), image)
    assert other.synthetic().loss_parameters == {}


def test_a_loss_s_parameter_stays_where_the_rates_do(train_split: Split, experts: Experts) -> None:
    run = begin(train_split, experts, loss=SIGLIP, rate_lr=0.0)
    run.step()
    assert run.synthetic().loss_parameters == {"bias": -10.0}


def test_a_checkpoint_of_other_settings_is_refused(train_split: Split, experts: Experts) -> None:
    state = begin(train_split, experts).state()
    with pytest.raises(RecordError, match="does not fit"):
        begin(train_split, experts, pairs=13).resume(state)


def test_same_seed_same_set_other_seed_another(train_split: Split, experts: Experts) -> None:
    runs = [begin(train_split, experts, seed=seed) for seed in (0, 0, 1)]
    for run in runs:
        run.step()
    features = [run.synthetic().image_features for run in runs]
    assert torch.equal(features[0], features[1])
    assert not torch.equal(features[0], features[2])


def test_a_non_finite_loss_stops_before_the_variables_move(train_split: Split, experts: Experts) -> None:
    run = begin(train_split, experts)
    with torch.no_grad():
        run.variables["text"][0, 0] = torch.nan
    before = {name: value.detach().clone() for name, value in run.variables.items()}
    with pytest.raises(NonFiniteError, match=r"Step 0: .* is nan"):
        run.step()
    for name, value in run.variables.items():
        torch.testing.assert_close(value.detach(), before[name], rtol=0, atol=0, equal_nan=True)


def test_a_frozen_variable_stays_where_it_was(train_split: Split, experts: Experts) -> None:
    run = begin(train_split, experts, image_lr=0.0)
    start = run.synthetic().image_features
    run.step()
    assert torch.equal(run.synthetic().image_features, start)
    assert not torch.equal(run.synthetic().text_features, begin(train_split, experts).synthetic().text_features)


def test_features_are_pulled_back_into_the_range_of_real_ones(train_split: Split, experts: Experts) -> None:
    low, high = spread_of(train_split).range
    outside = {}
    for pull in (0.0, 0.2, 1.0):
        run = begin(train_split, experts, range_pull=pull, image_lr=2.0)
        for _ in range(8):
            run.step()
        image = run.synthetic().image_features
        outside[pull] = float((image - image.clamp(low, high)).square().sum())
    assert outside[0.0] > 2 * outside[0.2] > 0
    assert outside[1.0] < 1e-8


def test_pixels_move_alike_whether_the_graph_is_kept_or_made_again(train_split: Split, experts: Experts) -> None:
    kept, again = pixel_run(train_split, experts, batch=12), pixel_run(train_split, experts, batch=5)
    for run in (kept, again):
        for _ in range(3):
            run.step()
    torch.testing.assert_close(kept.variables["image"], again.variables["image"], rtol=1e-3, atol=1e-4)
    synthetic = kept.synthetic()
    assert synthetic.pixels is not None
    assert synthetic.pixels.dtype == torch.uint8
    torch.testing.assert_close(synthetic.image_features, TinyEncoder()(synthetic.pixels.float() / 255))
    assert not torch.equal(synthetic.pixels, pixel_run(train_split, experts).synthetic().pixels)


def test_pixels_move_once_an_encoding_along_the_sum_of_the_steps(train_split: Split, experts: Experts) -> None:
    run = pixel_run(train_split, experts, every=3)
    start, moves = run.variables["image"].detach().clone(), []
    for _ in range(12):
        run.step()
        moves.append(not torch.equal(run.variables["image"].detach(), start))
        start = run.variables["image"].detach().clone()
    assert moves == [False, False, True] * 4


def test_a_step_on_pixels_takes_few_operations_and_encodes_only_where_they_move(
    train_split: Split, experts: Experts
) -> None:
    run = pixel_run(train_split, experts, every=4)
    for _ in range(4):
        run.step()
    steps = [count_operations(run.step) for _ in range(4)]
    assert [step.operations["tanh"] for step in steps] == [1, 0, 0, 0]  # once through the encoder, and once back
    assert [step.operations["tanh_backward"] for step in steps] == [0, 0, 0, 1]
    assert max(step.total for step in steps) <= 4_000
    assert max(step.waits.total() for step in steps) <= 24


def test_pixels_that_are_not_learned_are_encoded_once_for_all_steps(
    train_split: Split, experts: Experts, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded, forward = [], TinyEncoder.forward
    monkeypatch.setattr(TinyEncoder, "forward", lambda own, pixels: encoded.append(len(pixels)) or forward(own, pixels))
    run = pixel_run(train_split, experts, batch=5, image_lr=0.0)
    losses = [run.step() for _ in range(6)]
    assert encoded == [5, 5, 2]
    of_features = replace(run.start, image_features=TinyEncoder()(run.start.pixels.float() / 255), pixels=None)
    features_run = distillation(
        train_split,
        of_features,
        experts,
        replace(run.config, images="features"),
        LearnedFeatures(spread_of(train_split)),
    )
    for step in losses:
        assert features_run.step() == pytest.approx(step, rel=1e-4)


@pytest.mark.parametrize("least_crop", [1.0, 0.5])
def test_pixels_go_on_bit_for_bit_from_between_two_encodings(
    train_split: Split, experts: Experts, least_crop: float
) -> None:
    whole, first, second = (pixel_run(train_split, experts, every=4, least_crop=least_crop) for _ in range(3))
    for _ in range(12):
        whole.step()
    for _ in range(6):
        first.step()
    second.resume({name: value.clone() for name, value in first.state().items()})
    for _ in range(6):
        second.step()
    for name, value in whole.state().items():
        assert torch.equal(value, second.state()[name]), name


def test_the_encoder_sees_other_crops_at_each_encoding(
    train_split: Split, experts: Experts, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[int, float, int]] = []

    def noting(count: int, least: float, seed: int) -> torch.Tensor:
        drawn.append((count, least, seed))
        return draw_crops(count, least, seed)

    monkeypatch.setattr(image_variables, "draw_crops", noting)
    run = pixel_run(train_split, experts, every=2, least_crop=0.5)
    for _ in range(5):
        run.step()
    assert drawn == [(12, 0.5, step_seed(run.config, first)) for first in (0, 2, 4)]


def test_snapshots_are_read_once_where_they_fit_and_change_no_number(
    train_split: Split, experts: Experts, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, snapshot = [], Experts.snapshot
    monkeypatch.setattr(Experts, "snapshot", lambda own, *at: read.append(at) or snapshot(own, *at))

    def steps(room: int) -> list[dict[str, float]]:
        read.clear()
        monkeypatch.setattr(legs, "most_bytes_on", lambda device: room)
        run = pixel_run(train_split, experts)
        return [run.step() for _ in range(8)]

    kept = steps(10**9)
    assert len(read) == len(set(read))
    assert steps(1) == kept
    assert len(read) > len(set(read))


@pytest.mark.parametrize(
    "changes",
    [
        {"objective": "ridge", "similarity": "identity"},
        {"images": "pixels", "least_crop": 0.5, "steps_per_encoding": 2},
        {"images": "pixels", "least_crop": 0.5, "image_lr": 0.0},
    ],
    ids=["ridge", "pixels", "pixels that are not learned"],
)
def test_a_step_reads_its_numbers_together(
    train_split: Split, experts: Experts, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    """`meta` stands for the GPU: reading any other number of it fails. What is copied to it is not waited for."""
    read = list[int]()

    def read_numbers(numbers: dict[str, Any]) -> dict[str, float]:
        read.append(len(numbers))
        return dict.fromkeys(numbers, 0.5)

    monkeypatch.setattr(engine, "read_numbers", read_numbers)
    if changes.get("images") == "pixels":
        config = replace(BASE, **changes)
        pixels = torch.zeros(12, 3, 4, 4, dtype=torch.uint8)
        encoder = TinyEncoder()
        encoder.weight = encoder.weight.to("meta")
        image = LearnedPixels(encoder, torch.full((3, 1, 1), 0.5), 5, spread_of(train_split))
        start = replace(begun(train_split, config), pixels=pixels)
        run = distillation(train_split, start, experts, config, image, "meta")
    else:
        run = begin(train_split, experts, "meta", **changes)
    run.step()
    run.step()
    read.clear()
    counts = count_operations(run.step)
    assert len(read) == 1
    assert "copy to the device" not in counts.waits
    assert "_linalg_check_errors" not in counts.waits
