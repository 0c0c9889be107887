"""The stages composed, on a data set of some pictures and encoders of some hundred weights."""

import contextlib
import io
import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from stage_settings import TINY, Work, interrupt_at

import raydd
from raydd import stages
from raydd.config import Config
from raydd.data import load_image_encoder
from raydd.data.encoders import towers
from raydd.distill import heads_gradient
from raydd.errors import NonFiniteError, RecordError
from raydd.evaluate.retrieval import METRICS
from raydd.protocols import HeadsWorkbench
from raydd.sets.read import set_of_record
from raydd.settings import with_settings
from raydd.stages import collapse_over_steps, fit_rates
from raydd.store import Store


@pytest.fixture
def config(tiny_data: Path) -> Config:
    return with_settings(Config(), {**TINY, "data.root": str(tiny_data)})


def test_the_whole_way_gives_every_row_and_a_second_time_computes_nothing(config: Config, store: Store) -> None:
    result = stages.run(raydd.open(config, store))
    for row in ("synthetic", "random", "full"):
        assert set(result[row]) == set(METRICS)
        assert len(result[row]["r_mean"]["seeds"]) == 2
        assert 0 <= result[row]["r_mean"]["mean"] <= 100
    assert result["made"]["settings"]["distill.pairs"] == 6
    assert not any(name.startswith("place.") for name in result["made"]["settings"])
    json.dumps(result)
    work = Work()
    assert stages.run(raydd.open(config, store, work)) == result
    assert work.done == {}


def test_what_follows_the_last_step_is_told_too(config: Config, store: Store) -> None:
    told: list[tuple[str, int, int]] = []
    work = raydd.open(config, store, lambda *progress: told.append(progress))
    stages.synthetic_scores(work)
    fits, students = "fits of the students' learning rates", "students of the synthetic pairs"
    assert [one for one in told if one[0] in (fits, students)][-4:] == [
        *((fits, done, 1) for done in (0, 1)),
        *((students, done, 2) for done in (0, 2)),
    ]


def test_the_seed_of_a_distillation_draws_its_start_its_similarity_and_its_record(config: Config, store: Store) -> None:
    config = with_settings(config, {"distill.similarity": "low-rank"})
    works = [raydd.open(with_settings(config, {"distill.seed": seed}), store) for seed in (0, 0, 1)]
    one, again, other = (work.start().tensors() for work in works)
    assert {name for name in one if not torch.equal(one[name], again[name])} == set()
    drawn = {name for name in one if not torch.equal(one[name], other[name])}
    assert drawn >= {"image_features", "text_features", "similarity.left"}
    records = [stages.synthetic_record(work).fingerprint for work in works]
    assert records[0] == records[1] != records[2]


@pytest.mark.parametrize(
    ("space", "image_lr"), [("features", 0.1), ("pixels", 0.1), ("pixels", 0.0), ("features-then-pixels", 0.1)]
)
def test_every_space_leaves_a_set_that_others_can_read(
    config: Config, store: Store, space: str, image_lr: float
) -> None:
    config = with_settings(config, {"distill.images": space, "distill.image_lr": image_lr})
    synthetic, record = (
        stages.final_synthetic(raydd.open(config, store)),
        stages.synthetic_record(raydd.open(config, store)),
    )
    assert record.complete
    loaded = stages.load_synthetic(record)
    for name, value in synthetic.tensors().items():
        assert torch.equal(loaded.tensors()[name], value), name
    rows = pq.read_table(io.BytesIO(record.read("pairs.parquet"))).to_pylist()
    assert len(rows) == 6
    assert all(len(row["nearest_captions"]) == 5 and row["cosines"][0] >= row["cosines"][-1] for row in rows)
    if space == "features":
        assert synthetic.pixels is None
        return
    # The stored features are those of the 8-bit images as they lie on the disk: rounding costs nothing afterwards.
    images = [np.array(Image.open(io.BytesIO(record.read(row["image"])))) for row in rows]
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    assert synthetic.pixels is not None
    assert torch.equal(pixels, synthetic.pixels)
    features = load_image_encoder(config.encoders).module(pixels.float() / 255)
    torch.testing.assert_close(synthetic.image_features, features, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("images", "learned"), [("pixels", True), ("pixels", False), ("features-then-pixels", True)])
@pytest.mark.parametrize("side", [5, 24])
def test_synthetic_images_may_have_another_size_than_the_encoder_s_input(
    config: Config, store: Store, images: str, learned: bool, side: int
) -> None:
    config = config if learned else with_settings(config, {"distill.image_lr": 0.0})
    own, sized = (
        raydd.open(with_settings(config, {"distill.images": images, "distill.image_size": size}), store)
        for size in (0, side)
    )
    record = stages.synthetic_record(sized)
    assert record.fingerprint != stages.synthetic_record(own).fingerprint
    made, usual = stages.final_synthetic(sized), stages.final_synthetic(own)
    assert made.pixels is not None
    assert usual.pixels is not None
    assert made.pixels.shape == (6, 3, side, side)
    start = sized.pixels_of([sized.data.train.images[index] for index in made.start_images.tolist()], side)
    moved = (made.pixels.float() - start.float()).abs().flatten(1).amax(1)
    assert bool((moved > 0).all()) == learned
    # What is stored are the features that the encoder gives for the stored images, enlarged or reduced.
    input_size = usual.pixels.shape[-1]
    seen = F.interpolate(made.pixels.float() / 255, (input_size, input_size), mode="bicubic", antialias=True)
    features = load_image_encoder(config.encoders).module(seen.clamp(0, 1))
    torch.testing.assert_close(made.image_features, features, rtol=1e-4, atol=1e-5)
    assert torch.equal(stages.load_synthetic(record).image_features, made.image_features)


@pytest.mark.parametrize("images", ["features", "pixels", "features-then-pixels"])
def test_a_set_says_what_its_learned_rates_were_multiplied_by(config: Config, store: Store, images: str) -> None:
    config = with_settings(config, {"distill.images": images, "students.epochs": 40})
    learned = []
    for work in (raydd.open(config, store), raydd.open(with_settings(config, {"distill.fit_rates": False}), store)):
        record = stages.synthetic_record(work)
        learned.append((stages.final_synthetic(work).rate_image, record.facts()["times_learned_rates"]))
    (fitted_rate, multiple), (learned_rate, one) = learned
    assert one == 1
    assert fitted_rate == pytest.approx(multiple * learned_rate)
    if images == "features-then-pixels":  # both fits count
        features = set_of_record(stages.distilling.records_of(raydd.open(config, store))[0]).provenance
        assert features.times_learned_rates != 1


def test_threads_that_search_for_pixels_share_one_encoder(
    config: Config, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"distill.images": "features-then-pixels", "place.encode_batch": 2}
    config, pack = with_settings(config, {**settings, "distill.image_size": 16}), towers.packed
    packed_in = list[threading.Thread]()

    def packing(*arguments: Any) -> Any:
        packed_in.append(threading.current_thread())
        time.sleep(0.2)
        return pack(*arguments)

    monkeypatch.setattr(towers, "packed", packing)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        made = stages.final_synthetic(raydd.open(config, store))
    finally:
        torch.set_num_threads(threads)
    assert made.pixels is not None
    assert set(packed_in) == {threading.main_thread()}
    work = raydd.open(config, store)
    packed_in.clear()
    stages.final_synthetic(work)
    assert packed_in == []


def test_a_set_says_how_its_experts_were_trained_and_what_computed_it(config: Config, store: Store) -> None:
    config = with_settings(config, {"experts.lr": 0.3, "experts.anneal": 2, "distill.images": "features"})
    work = raydd.open(config, store)
    stages.final_synthetic(work)
    own = {name: TINY[name] for name in ("encoders.image", "encoders.text")}
    provenance = set_of_record(stages.synthetic_record(work)).provenance
    assert provenance.device == "cpu"
    told = provenance.config(own).experts
    assert (told.lr, told.anneal, told.batch_size) == (0.3, 2, 8)


def test_an_interrupted_distillation_ends_where_an_undisturbed_one_does(config: Config, tmp_path: Path) -> None:
    undisturbed = stages.final_synthetic(raydd.open(config, Store(tmp_path / "a")))
    store = Store(tmp_path / "b")
    for step in (4, 5, 7):
        with pytest.raises(KeyboardInterrupt):
            stages.final_synthetic(raydd.open(config, store, interrupt_at(step)))
    resumed = stages.final_synthetic(raydd.open(config, store))
    for name, value in undisturbed.tensors().items():
        assert torch.equal(resumed.tensors()[name], value), name


def test_work_since_the_last_checkpoint_alone_is_lost(config: Config, store: Store) -> None:
    config, work = with_settings(config, {"distill.images": "features"}), Work()
    with pytest.raises(KeyboardInterrupt):
        stages.final_synthetic(raydd.open(config, store, interrupt_at(5)))
    stages.final_synthetic(raydd.open(config, store, work))
    assert work.done["distillation steps"] == [4, 5, 6, 7, 8]  # the checkpoint is of step 3


def test_a_distillation_that_is_left_keeps_its_state(config: Config, store: Store) -> None:
    config, work = with_settings(config, {"distill.images": "features"}), Work()
    with contextlib.closing(stages.distill(raydd.open(config, store), every=1)) as points:
        assert [next(points).step for _ in range(5)] == [1, 2, 3, 4, 5]
    stages.final_synthetic(raydd.open(config, store, work))
    assert work.done["distillation steps"] == [6, 7, 8]


def test_points_count_the_steps_of_both_phases(config: Config, store: Store) -> None:
    points = list(stages.distill(raydd.open(config, store), every=4))
    assert [(point.step, point.steps) for point in points] == [(4, 8), (8, 8), (8, 8)]
    assert all(point.metrics["loss"] > 0 for point in points[:2])
    assert [point.synthetic.pixels is None for point in points] == [True, True, False]


def test_the_set_does_not_depend_on_how_it_is_watched(config: Config, tmp_path: Path) -> None:
    sets = []
    for every in (0, 2):
        *_, last = stages.distill(raydd.open(config, Store(tmp_path / str(every))), every=every)
        sets.append(last.synthetic)
    assert torch.equal(sets[0].text_features, sets[1].text_features)


def test_a_point_tells_the_means_since_the_last_one_and_a_record_what_all_steps_took(
    config: Config, tmp_path: Path
) -> None:
    config = with_settings(config, {"distill.images": "features"})
    works = [raydd.open(config, Store(tmp_path / name)) for name in ("each", "fourth")]
    began = time.process_time()
    each = list(stages.distill(works[0], every=1))
    used = time.process_time() - began
    fourth = list(stages.distill(works[1], every=4))
    losses = [point.metrics["loss"] for point in each[:8]]
    assert fourth[1].metrics["loss"] == pytest.approx(sum(losses[4:]) / 4)
    assert sum(losses[4:]) / 4 != pytest.approx(sum(losses) / 8)
    took = sum(point.metrics["cpu_seconds"] for point in each[:8])
    assert took < stages.synthetic_record(works[0]).facts()["cpu_seconds"] <= used


def test_experts_are_shared_by_distillations_and_extended(config: Config, store: Store) -> None:
    raydd.open(config, store).experts()
    assert raydd.open(config, store).missing_experts == []
    longer = with_settings(config, {"distill.target_epochs": 3, "experts.count": 3})
    assert raydd.open(longer, store).missing_experts == [0, 1, 2]
    work = Work()
    raydd.open(longer, store, work).experts()
    assert len(work.done["epochs of experts"]) == 1 + 1 + 3
    assert raydd.open(longer, store).missing_experts == []


def test_of_the_experts_those_that_are_named_are_trained(config: Config, store: Store) -> None:
    work = raydd.open(config, store)
    work.train_experts(work.open_experts(), [1], config.distill.expert_epochs)
    assert raydd.open(config, store).missing_experts == [0]


def test_other_settings_never_read_a_stale_record(config: Config, store: Store) -> None:
    one = stages.synthetic_record(raydd.open(config, store)).fingerprint
    for name, value in [("distill.image_lr", 0.5), ("experts.lr", 0.3), ("features.seed", 5), ("pixels.lr", 0.5)]:
        assert stages.synthetic_record(raydd.open(with_settings(config, {name: value}), store)).fingerprint != one, name
    for name, value in [("place.threads", 2), ("distill.checkpoint_every", 7), ("evaluate.seeds", 3)]:
        assert stages.synthetic_record(raydd.open(with_settings(config, {name: value}), store)).fingerprint == one, name


def test_nan_ends_the_run_with_its_reason_and_keeps_the_last_good_set(
    config: Config, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = with_settings(config, {"distill.images": "features"})
    matched = heads_gradient.matching_loss

    def poisoned(*arguments: Any, **options: Any) -> Any:
        calls.append(0)
        return matched(*arguments, **options) * (torch.nan if len(calls) == 5 else 1)

    calls: list[int] = []
    monkeypatch.setattr(heads_gradient, "matching_loss", poisoned)
    with pytest.raises(NonFiniteError, match="Step 4: loss is nan"):
        stages.final_synthetic(raydd.open(config, store))
    record = stages.synthetic_record(raydd.open(config, store))
    assert not record.complete
    last_good = record.read_tensors("last_good.safetensors")
    assert all(bool(part.float().isfinite().all()) for part in last_good.values())
    with pytest.raises(RecordError, match="not complete"):
        stages.load_synthetic(record)


def test_a_set_that_is_scored_on_val_first_keeps_the_split_of_its_run(config: Config, store: Store) -> None:
    work = raydd.open(config, store)
    stages.synthetic_scores(work, "val")
    assert set_of_record(stages.synthetic_record(work)).provenance.settings["evaluate.split"] == "test"


def test_scores_of_a_set_in_hand_equal_those_of_the_record(config: Config, store: Store) -> None:
    synthetic = stages.final_synthetic(raydd.open(config, store))
    in_hand = stages.score_students(raydd.open(config, store), synthetic, split="test", seeds=range(2))
    assert in_hand.seeds == stages.synthetic_scores(raydd.open(config, store)).seeds


def test_students_that_diverge_at_the_learned_rates_get_a_part_of_them(
    config: Config, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = raydd.open(config, store)
    synthetic = stages.final_synthetic(work)
    wild = replace(synthetic, rate_image=1e20, rate_text=1e20)
    with pytest.raises(NonFiniteError):
        fit_rates(work, wild)

    train = type(work).train_at_multiples

    def diverging_at_full_rate(work: Any, pairs: Any, multiples: Any) -> Any:
        students = train(work, pairs, multiples)
        return [None if one > 0.5 else student for one, student in zip(multiples, students, strict=True)]

    monkeypatch.setattr(type(work), "train_at_multiples", diverging_at_full_rate)
    fitted = fit_rates(work, synthetic)
    assert fitted.multiple <= 0.5
    assert fitted.pairs.rate_image == fitted.multiple * synthetic.rate_image
    assert fitted.val.mean == stages.score_students(work, fitted.pairs, split="val", seeds=[0]).mean

    train_several = type(work).train_students

    def diverging_too(work: Any, pairs: Any, seeds: Any) -> Any:
        assert 0 not in seeds
        if pairs.rate_image > synthetic.rate_image / 4:
            raise NonFiniteError("a student of another seed diverged")
        return train_several(work, pairs, seeds)

    monkeypatch.setattr(type(work), "train_students", diverging_too)
    assert fitted.multiple == 0.5, "right below the rates at which the first student diverges"
    assert fit_rates(work, synthetic).multiple == 0.25


def test_a_student_that_diverges_takes_its_row_to_lower_rates(
    config: Config, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = raydd.open(config, Store(store.root + "-usual"))
    expected, work, train = (
        stages.selected_scores(usual, "random"),
        raydd.open(config, store),
        HeadsWorkbench.train_students,
    )
    (chosen, _), highest = stages.scores_record(usual, "random").facts()["learning_rates"], [0.0]

    def diverging(work: Any, pairs: Any, seeds: Any, *others: Any) -> Any:
        if list(seeds) == [1] and pairs.rate_image > highest[0]:
            raise NonFiniteError("Lower distill.start_rate.")
        return train(work, pairs, seeds, *others)

    monkeypatch.setattr(HeadsWorkbench, "train_students", diverging)
    with pytest.raises(NonFiniteError, match=r"random pairs diverge even at .* 0\.0125 and 0\.0125\. Lower students"):
        stages.selected_scores(work, "random")
    highest[0] = chosen / 3
    lower = stages.selected_scores(work, "random")
    assert stages.scores_record(work, "random").facts()["learning_rates"] == [chosen / 4, chosen / 4]
    assert len(lower.seeds) == len(expected.seeds) == 2


def test_collapse_is_noted_from_the_start_to_the_end_whatever_interrupts(config: Config, store: Store) -> None:
    config = with_settings(config, {"distill.images": "features", "distill.steps": 25})
    with pytest.raises(KeyboardInterrupt):
        stages.final_synthetic(raydd.open(config, store, interrupt_at(14)))
    last = stages.final_synthetic(raydd.open(config, store))
    noted = collapse_over_steps(stages.synthetic_record(raydd.open(config, store)))
    assert [point["step"] for point in noted] == [*range(0, 25, 2), 25]
    # Noted before the rates are fitted, which change no pair.
    measured = raydd.open(config, store).collapse(last)
    assert {name: value for name, value in noted[-1].items() if name != "step"} == pytest.approx(measured)
    assert noted[0] != noted[-1]


def test_a_distillation_may_have_a_temperature_of_its_own(config: Config, store: Store) -> None:
    works = [raydd.open(with_settings(config, {"distill.temperature": value}), store) for value in (0.0, 0.07, 0.3)]
    plain, same, other = (stages.final_synthetic(work) for work in works)
    assert torch.equal(plain.text_features, same.text_features)  # 0.07 is that of the experts
    assert not torch.equal(plain.text_features, other.text_features)
    assert set_of_record(stages.synthetic_record(works[2])).provenance.temperature == 0.07  # of its students
