"""An epoch of an expert that trains the image encoder."""

import pytest
import torch
from encoder_walks import SIDE, D, E, conv_net
from torch import Tensor
from torch.func import functional_call

from bench.counting import count_operations
from raydd.config import ExpertsConfig
from raydd.data.feature_rows import CaptionRows
from raydd.distill import encoder_experts
from raydd.distill.encoder_experts import train_epoch
from raydd.distill.encoder_passes import TrainedEncoder, Weights
from raydd.distill.encoder_student import Networks
from raydd.distill.heads import initial_head

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
