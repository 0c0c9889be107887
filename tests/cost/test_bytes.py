from dataclasses import replace

import torch
from torch import nn

from raydd.config import Config
from raydd.config.sweep import TRIAL_SEEDS
from raydd.cost.bytes import (
    encoder_memory_bytes,
    expert_bytes,
    feature_bytes,
    graph_bytes,
    legs_bytes,
    memory_bytes,
    parameters_of,
    second_graph_bytes,
    trial_bytes,
)
from raydd.distill.experts import Experts
from raydd.distill.heads import head_size
from raydd.distill.legs import KEPT_LEG_BYTES
from raydd.settings import load
from raydd.store import Record, Store

HEADER = 400  # bytes of a safetensors header, at most


def test_the_feature_cache_is_counted_by_hand():
    # (3 images x 2 views + 1 clean one) x 10 numbers + 4 captions x 5 numbers, of two bytes
    assert feature_bytes(3, 1, 2, 10, 4, 5) == 2 * (7 * 10 + 4 * 5)


def test_the_published_heads_have_17_7_million_parameters():
    assert round(parameters_of(load(), 2304, 768) / 1e6, 1) == 17.7


def test_expert_snapshots_take_what_is_predicted(store: Store):
    config = load(
        settings={
            "experts.count": 2,
            "experts.width": 8,
            "distill.target_epochs": 2,
            "distill.max_start_epoch": 2,
            "evaluate.baselines": [],
        }
    )
    experts = Experts(Record.of(store, "experts", {}, {}, version=1), 12, 6, 8, 0, 2)
    written = 0
    for expert in range(2):
        for epoch in (1, 2, 3):
            differences, _ = experts.rounded(expert, experts.initial(expert), experts.initial(expert))
            experts.record.write_tensors(experts.name(expert, epoch), differences)
            written += len(experts.record.read(experts.name(expert, epoch)))
    assert 0 <= written - expert_bytes(config, parameters_of(config, 12, 6)) <= 6 * HEADER


def test_the_full_data_row_adds_all_epochs_of_one_expert_and_one_of_the_others():
    few = {"experts.count": 3, "experts.epochs": 4, "distill.max_start_epoch": 1, "distill.target_epochs": 4}
    few |= {"evaluate.seeds": 5}
    parameters = parameters_of(load(), 12, 6)
    snapshot = 2 * parameters
    assert expert_bytes(load(settings={**few, "evaluate.baselines": []}), parameters) == 3 * snapshot
    assert expert_bytes(load(settings=few), parameters) == (3 + 3 + 2) * snapshot
    # epoch 4 is a target already for three of the five; the first expert has epochs 1 to 3 as well
    assert expert_bytes(load(settings={**few, "experts.epochs": 7}), parameters) == (3 + 5 + 5) * snapshot


def test_what_autograd_keeps_is_counted_once_and_without_the_weights():
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 5), nn.Sigmoid(), nn.Linear(5, 7), nn.Tanh())
    module.requires_grad_(False)
    assert graph_bytes(module, 4) == 4 * (5 + 7)  # the outputs of sigmoid and tanh


def test_memory_holds_graphs_of_images_only_where_pixels_are_learned():
    def need(space: str, images: int) -> int:
        config = load(settings={"distill.images": space})
        return memory_bytes(config, 1280, 384, size=224, graph=50_000_000, images=images, workers=0)

    assert need("pixels", 64) > 64 * 50_000_000
    assert need("features", 64) < 64 * 50_000_000
    assert need("features-then-pixels", 128) > need("features-then-pixels", 64)


def test_predicting_leaves_the_encoder_as_it_was():
    module = nn.Linear(4, 4).requires_grad_(False)
    before = module.weight.clone()
    graph_bytes(nn.Sequential(module), 4)
    assert torch.equal(module.weight, before)
    assert module.weight.grad is None


def test_a_trained_encoder_counts_its_own_weights_and_the_text_head():
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(48, 12))
    head = parameters_of(load(), 12, 6) - head_size(12, 12)
    assert parameters_of(load(), 12, 6, encoder) == 48 * 12 + 12 + head


def test_the_second_derivative_keeps_more_than_the_first():
    module = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GELU(), nn.Conv2d(8, 8, 3, padding=1), nn.Flatten())
    first, second = graph_bytes(module.requires_grad_(False), 16), second_graph_bytes(module, 16)
    assert 1.5 * first < second < 8 * first
    assert all(weight.grad is None and not weight.requires_grad for weight in module.parameters())


def test_the_exact_gradient_holds_each_steps_weights():
    def need(gradient: str, steps: int) -> int:
        config = load(settings={"distill.gradient": gradient, "distill.student_steps": steps})
        return encoder_memory_bytes(config, 5_000_000, graph=10_000_000, images=8)

    assert need("exact", 16) - need("exact", 4) == 12 * 4 * 5_000_000
    assert need("constant-memory", 16) == need("constant-memory", 4)


def test_larger_heads_and_longer_walks_need_more():
    small = Config()
    longer = replace(small, distill=replace(small.distill, student_steps=40))
    assert trial_bytes(small, 1280, 384) < trial_bytes(small, 2304, 768)
    assert trial_bytes(small, 2304, 768) < trial_bytes(longer, 2304, 768)


def test_a_trial_of_the_published_sizes_is_expected_to_need_a_few_gigabytes():
    assert 2e9 < trial_bytes(Config(), 2304, 768) < 6e9


def test_a_run_and_a_trial_count_heads_alike():
    config = load(settings={"distill.images": "features", "evaluate.seeds": TRIAL_SEEDS})
    longer = load(settings={"distill.images": "features", "evaluate.seeds": TRIAL_SEEDS, "distill.student_steps": 40})

    def run(config: Config) -> int:
        return memory_bytes(config, 2304, 768, size=32, graph=0, images=1, workers=0)

    def trial(config: Config) -> int:
        return trial_bytes(config, 2304, 768)

    assert run(longer) - run(config) == trial(longer) - trial(config) > 0


def test_kept_graphs_of_pixels_come_on_top_of_the_heads():
    config = load(settings={"distill.images": "pixels"})
    without = memory_bytes(config, 2304, 768, size=32, graph=0, images=1, workers=0)
    graph = 1_000_000
    need = memory_bytes(config, 2304, 768, size=32, graph=graph, images=1, workers=0)
    assert need - without == config.distill.pairs * graph


def test_legs_that_are_kept_are_counted_by_hand_up_to_what_is_kept_of_them():
    # Three experts, two start epochs; a start and a way of four bytes a number
    config = load(settings={"experts.count": 3, "distill.max_start_epoch": 2})
    assert legs_bytes(config, 1_000) == 3 * 2 * 2 * 4 * 1_000
    assert legs_bytes(config, 10**9) == KEPT_LEG_BYTES
    assert legs_bytes(load(settings={"distill.objective": "ridge"}), 1_000) == 0
