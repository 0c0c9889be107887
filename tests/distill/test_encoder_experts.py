"""An epoch of an expert that trains the image encoder."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from encoder_walks import SIDE, D, E, conv_net, problem
from small_distillations import BASE
from torch import Tensor
from torch.func import functional_call

from bench.counting import count_operations
from raydd.config import ExpertsConfig
from raydd.data.feature_rows import CaptionRows
from raydd.distill import encoder_experts
from raydd.distill.encoder_experts import EncoderExperts, KeptNetworks, train_epoch
from raydd.distill.encoder_passes import TrainedEncoder, Weights
from raydd.distill.encoder_student import Networks
from raydd.distill.heads import initial_head
from raydd.distill.heads_gradient import heads_gradient
from raydd.distill.losses import LOSSES
from raydd.distill.objectives import ObjectiveInputs
from raydd.distill.objectives.trajectory import TrajectoryMatching
from raydd.store import Record, Store

BATCHES = [(torch.arange(4), torch.zeros(4, 3, SIDE, SIDE, dtype=torch.uint8))] * 3
TEXTS = CaptionRows((torch.randn(4, E, generator=torch.Generator().manual_seed(0)).half(),), 4)


def test_an_epoch_on_a_gpu_waits_for_its_mean_loss_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """`meta` stands for the GPU. It has no random generators, no autocast, and no values that could be read."""

    def encode(self: TrainedEncoder, weights: Weights, pixels: Tensor) -> Tensor:
        return functional_call(self.module, weights, (pixels,))

    monkeypatch.setattr(TrainedEncoder, "__call__", encode)
    monkeypatch.setattr(encoder_experts, "Generator", lambda _: torch.Generator())
    encoder = TrainedEncoder(conv_net().to("meta"), at_once=2)
    networks = Networks.of(encoder.start, initial_head(E, D, torch.Generator())).to("meta")
    recipe, batches_done = ExpertsConfig(dropout=0.0), list[None]()

    def train() -> None:
        with pytest.raises(RuntimeError, match="meta"):  # reads the mean loss, which it returns
            train_epoch(
                encoder,
                networks,
                BATCHES,
                TEXTS,
                recipe,
                lr_multipliers=[1.0] * len(BATCHES),
                seed=0,
                device="meta",
                on_batch=lambda: batches_done.append(None),
            )

    counts = count_operations(train)
    assert len(batches_done) == len(BATCHES)
    assert counts.copies == 2 * len(BATCHES)
    assert not set(counts.waits) - {"_local_scalar_dense", "unique_consecutive", "tolist"}  # on the host, of captions


def test_snapshots_stay_on_a_gpu_as_far_as_they_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretrained = TrainedEncoder(conv_net(), at_once=2).start
    experts = EncoderExperts(Record.of(Store(tmp_path), "experts", {}, {}, version=1), pretrained, E, D, 0, 4)
    read, snapshot = list[int](), EncoderExperts.snapshot
    monkeypatch.setattr(EncoderExperts, "snapshot", lambda *which: read.append(which[1]) or snapshot(*which))
    size = experts.initial(0).nbytes
    kept = KeptNetworks(experts, "meta", 3 * size)  # `meta` stands for the GPU
    for expert in (0, 1, 0, 2, 3, 0, 1):
        assert {weight.device.type for side in kept.get(expert, 0) for weight in side.values()} == {"meta"}
    assert read == [0, 1, 2, 3, 1]
    read.clear()
    config = replace(BASE, protocol="encoder", images="pixels", max_start_epoch=1)
    inputs = ObjectiveInputs(config, 0.1, LOSSES["infonce"], experts, heads_gradient, None, None, "meta")
    monkeypatch.setattr(EncoderExperts, "snapshot", lambda *which: read.append(which[1]) or experts.initial(which[1]))
    for objective in (TrajectoryMatching(inputs), TrajectoryMatching(replace(inputs, device="cpu"))):
        for _ in range(2):
            objective._read_leg(1, 0)
    assert len(read) == 2 + 4  # on a CPU they are mapped from their files each time


def test_a_student_s_numbers_are_not_read_one_by_one() -> None:
    counts = count_operations(problem(steps=3).matching)
    assert counts.waits["tolist"] == 1  # of its learning rates
    assert counts.waits["_local_scalar_dense"] == 2  # whether the expert moved, on each side
