"""What a run and a trial read whose records are all there: the reader, the parts of the features, files of the store.

Before there was a workbench, a cached run called the reader 17 times, opened features 14 times, and made 93 reads and
154 look-ups of local files; a trial 12, 11, 69 and 134.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from made_sets import Made, made_set, trained_set

import raydd
from bench.counting import count_operations
from raydd import stages
from raydd.cluster.environment import prepare_environment
from raydd.data import SplitFeatures, pairs
from raydd.distill.experts import Experts
from raydd.distill.heads import Head
from raydd.evaluate.students import rows_of
from raydd.protocols import Opened, Workbench, base, changed, heads, open_workbench
from raydd.settings import with_settings
from raydd.store import Store

prepare_environment("local")  # before trainables imports ray

from trainables.distill import distillation_reports  # noqa: E402


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each thing was read or opened."""
    found: Counter[str] = Counter()

    def count(owner: Any, name: str) -> None:
        function = getattr(owner, name)

        def counted(*given: Any, **named: Any) -> Any:
            found[name] += 1
            return function(*given, **named)

        monkeypatch.setattr(owner, name, counted)

    for owner, name in (
        (pairs, "find_reader"),
        *((heads, name) for name in ("open_features", "open_held_out")),
        *((base, name) for name in ("encode_texts", "load_data", "open_data")),
        *((Store, name) for name in ("read", "local")),
    ):
        count(owner, name)
    return found


def trial_of(made: Made, settings: Mapping[str, Any], listings: Mapping[Any, str]) -> Workbench:
    """The workbench of a trial in a process that has opened nothing."""
    return open_workbench(with_settings(made.config, settings), Store(made.store.root), opened=Opened(listings))


def test_a_cached_run_asks_the_reader_once_and_opens_each_part_once(calls: Counter[str]) -> None:
    made = made_set()
    calls.clear()
    work = raydd.open(made.config, Store(made.store.root))
    work.data.summary()
    result = stages.run(work)
    assert set(result) == {"synthetic", "random", "full", "made"}
    assert calls["find_reader"] == calls["load_data"] == 1
    assert calls["open_features"] == calls["open_held_out"] == calls["encode_texts"] == 1
    assert 0 < calls["read"] <= 40
    assert 0 < calls["local"] <= 25


def test_a_cached_run_of_a_trained_encoder_opens_captions_alone(calls: Counter[str]) -> None:
    made = trained_set()
    calls.clear()
    work = raydd.open(made.config, Store(made.store.root))
    work.data.summary()
    stages.run(work)
    assert calls["find_reader"] == calls["encode_texts"] == 1
    assert calls["open_features"] == calls["open_held_out"] == 0
    assert 0 < calls["read"] <= 30
    assert 0 < calls["local"] <= 15


@pytest.mark.parametrize("protocol", ["heads", "encoder"])
def test_a_trial_asks_no_reader_and_opens_each_part_once(calls: Counter[str], protocol: str) -> None:
    made = trained_set() if protocol == "encoder" else made_set()
    settings = {"distill.seed": 3, **({"distill.images": "features"} if protocol == "heads" else {})}
    listings = {made.config.data: raydd.open(made.config, made.store).data.listing}
    for bounds in ({"read": 25, "local": 35}, {"read": 30, "local": 20}):  # distilled here, then cached
        calls.clear()
        (*_, last) = distillation_reports(trial_of(made, settings, listings))
        assert last.record
        assert calls["find_reader"] == calls["load_data"] == 0
        assert calls["open_data"] == calls["encode_texts"] == 1
        assert calls["open_features"] == calls["open_held_out"] == (1 if protocol == "heads" else 0)
        assert all(0 < calls[name] <= most for name, most in bounds.items())


def test_trials_with_other_experts_leave_none_of_them_in_memory() -> None:
    made = made_set()
    work = raydd.open(with_settings(made.config, {"distill.objective": "covariance"}), made.store)
    pairs, held = work.start(), list[int]()
    for lr in (0.1, 0.2, 0.3):
        changed(work, {"experts.lr": lr}).collapse(pairs)
        held.append(len(work.opened._values))
    assert held == [held[0]] * 3


def test_collapse_reads_the_same_heads_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made, read = made_set(), list[int]()
    work = raydd.open(with_settings(made.config, {"distill.objective": "covariance"}), made.store)
    given, snapshot = work.start(), Experts.snapshot
    monkeypatch.setattr(Experts, "snapshot", lambda *which: read.append(which[1]) or snapshot(*which))
    first = work.collapse(given)
    assert changed(work, {"distill.seed": 7}).collapse(given) == work.collapse(given) == first
    assert len(read) == 1
    assert changed(work, {"experts.seed": 9}).collapse(given) != first
    assert work.collapse(given) == first
    assert len(read) == 3


def test_a_gpu_gets_the_split_that_is_scored_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """`meta` stands for the GPU."""
    made = made_set()
    work = raydd.open(made.config, made.store)
    given, scored = work.start(), list[SplitFeatures]()
    images, texts = work.embed(work.open_experts().initial(0), given)
    on_gpu = tuple(Head(*(part.to("meta") for part in head)) for head in work.open_experts().initial(0))
    monkeypatch.setattr(type(work), "device", "meta")
    monkeypatch.setattr("raydd.protocols.heads.hits_of_heads", lambda *which, device: scored.append(which[2]) or [])
    monkeypatch.setattr("raydd.protocols.heads.ridge_scores", lambda *which, device: scored.append(which[1]) or {})
    work.hits(on_gpu, "val")
    changed(work, {"distill.seed": 7}).hits(on_gpu, "val")
    work.ridge_scores(given)
    assert scored[0] is scored[1] is scored[2]
    counts = count_operations(lambda: rows_of(scored[0], "meta"))
    assert counts.copies == counts.waits.total() == 0
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: tensor)  # where the heads are, the set is embedded
    assert [(side.device.type, side.shape) for side in work.embed(on_gpu, given)] == [
        ("meta", images.shape),
        ("meta", texts.shape),
    ]
