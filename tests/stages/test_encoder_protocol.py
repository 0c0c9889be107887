"""Protocol A, experts and students that train the whole image encoder, through the stages and the command line."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from stage_settings import TINY, Work, interrupt_at

import raydd
from raydd import stages
from raydd.cli import main
from raydd.config import Config
from raydd.distill import image_variables
from raydd.distill.matching import StepLoss
from raydd.distill.methods import METHODS
from raydd.errors import ConfigError, NonFiniteError
from raydd.evaluate.retrieval import METRICS
from raydd.settings import load, with_settings
from raydd.stages import collapse_over_steps
from raydd.store import Store

ENCODER: dict[str, Any] = {
    **TINY,
    "distill.protocol": "encoder",
    "distill.gradient": "constant-memory",
    "distill.encoder_rate": 0.05,
    "experts.encoder_lr": 0.05,
    "experts.epochs": 2,
}


@pytest.fixture
def config(tiny_data: Path) -> Config:
    return load(settings={**ENCODER, "data.root": str(tiny_data)})


def weights(config: Config, store: Store, epoch: int) -> dict[str, torch.Tensor]:
    experts: Any = raydd.open(config, store).experts()
    image, text = experts.snapshot(0, epoch)
    return image | text


def test_the_whole_way_through_the_command_line(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAYDD_HOME", str(tmp_path / "home"))
    scores, settings = tmp_path / "scores.json", {**ENCODER, "data.root": str(tiny_data)}
    flags = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    assert main(["experts", *flags]) == 0
    assert main(["distill", *flags]) == 0
    assert "images/" in capsys.readouterr().out
    assert main(["run", *flags, "--json", str(scores)]) == 0
    result = json.loads(scores.read_text())
    assert all(set(result[row]) == set(METRICS) for row in ("synthetic", "random", "full"))
    assert "image encoder and text head trained" in result["made"]["protocol"]
    manifest = json.loads((tmp_path / "home/store" / result["made"]["synthetic_record"] / "manifest.json").read_text())
    assert manifest["facts"]["protocol"] == "encoder"
    assert not (tmp_path / "home/store/features").exists()  # no image is encoded beforehand


def test_a_second_time_computes_nothing(config: Config, store: Store) -> None:
    first, work = stages.run(raydd.open(config, store)), Work()
    assert stages.run(raydd.open(config, store, work)) == first
    assert work.done == {}


MATCHING = [name for name, method in METHODS.items() if "distill.objective" not in method.settings]


@pytest.mark.parametrize("method", MATCHING)
def test_every_method_learns_pixels_and_texts(tiny_data: Path, store: Store, method: str) -> None:
    settings = {name: value for name, value in ENCODER.items() if name != "distill.gradient"}
    config = load(settings={**settings, "data.root": str(tiny_data), "distill.method": method})
    *_, last = stages.distill(raydd.open(config, store), every=1)
    start = next(iter(stages.distill(raydd.open(with_settings(config, {"distill.steps": 0}), store))))
    assert last.synthetic.pixels is not None
    assert start.synthetic.pixels is not None
    assert not torch.equal(last.synthetic.pixels, start.synthetic.pixels)
    assert not torch.equal(last.synthetic.text_features, start.synthetic.text_features)
    noted = collapse_over_steps(stages.synthetic_record(raydd.open(config, store)))
    assert noted[0] != noted[-1]


@pytest.mark.parametrize("gradient", ["exact", "constant-memory"])
def test_an_interrupted_distillation_ends_where_an_undisturbed_one_does(
    config: Config, tmp_path: Path, gradient: str
) -> None:
    config = with_settings(config, {"distill.gradient": gradient})
    undisturbed, store = stages.final_synthetic(raydd.open(config, Store(tmp_path / "a"))), Store(tmp_path / "b")
    for step in (4, 5):
        with pytest.raises(KeyboardInterrupt):
            stages.final_synthetic(raydd.open(config, store, interrupt_at(step)))
    work = Work()
    resumed = stages.final_synthetic(raydd.open(config, store, work))
    assert work.done["distillation steps"][0] == 4  # the checkpoint is of step 3
    for name, value in undisturbed.tensors().items():
        assert torch.equal(resumed.tensors()[name], value), name


def test_experts_move_the_encoder_and_go_on_as_if_never_stopped(config: Config, tmp_path: Path) -> None:
    longer = with_settings(config, {"distill.target_epochs": 3})
    whole, parts = Store(tmp_path / "whole"), Store(tmp_path / "parts")
    raydd.open(config, parts).experts()
    assert raydd.open(config, parts).missing_experts == []
    assert raydd.open(longer, parts).missing_experts == [0, 1]
    one, other, start = weights(longer, whole, 3), weights(longer, parts, 3), weights(longer, parts, 0)
    for name, value in one.items():
        assert torch.equal(value, other[name]), name
        assert not torch.equal(value, start[name]), name


def test_other_settings_never_read_a_stale_record(config: Config, store: Store) -> None:
    one = stages.synthetic_record(raydd.open(config, store)).fingerprint
    for name, value in [
        ("distill.encoder_rate", 0.5),
        ("experts.encoder_lr", 0.3),
        ("encoders.precision", "bfloat16"),
        ("distill.protocol", "heads"),
    ]:
        assert stages.synthetic_record(raydd.open(with_settings(config, {name: value}), store)).fingerprint != one, name
    heads = with_settings(config, {"distill.protocol": "heads"})
    same = with_settings(heads, {"distill.encoder_rate": 0.5, "encoders.precision": "bfloat16"})
    assert (
        stages.synthetic_record(raydd.open(heads, store)).fingerprint
        == stages.synthetic_record(raydd.open(same, store)).fingerprint
    )


def test_half_precision_goes_the_whole_way(config: Config, store: Store) -> None:
    half = with_settings(config, {"encoders.precision": "bfloat16", "distill.steps": 2})
    assert len(stages.synthetic_scores(raydd.open(half, store)).seeds) == 2


def test_a_non_finite_gradient_ends_with_its_reason_and_the_last_good_set(
    config: Config, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    matching, calls = image_variables.matching_gradient, []

    def poisoned(*given: Any) -> StepLoss:
        found = matching(*given)
        calls.append(found)
        if len(calls) == 3:
            found.gradients["image"][0] = torch.nan
        return found

    monkeypatch.setattr(image_variables, "matching_gradient", poisoned)
    with pytest.raises(NonFiniteError, match=r"Step 2: gradient/image is nan\. Lower"):
        stages.final_synthetic(raydd.open(config, store))
    record = stages.synthetic_record(raydd.open(config, store))
    assert not record.complete
    assert bool(record.read_tensors("last_good.safetensors")["text_features"].isfinite().all())


@pytest.mark.parametrize("protocol", ["heads", "encoder"])
def test_a_loss_of_one_s_own_goes_the_whole_way(config: Config, store: Store, protocol: str) -> None:
    loss = f"{Path(__file__).parents[2] / 'docs/examples/own_loss.py'}:LOSS"
    config = with_settings(config, {"distill.protocol": protocol, "distill.loss": loss, "experts.loss": loss})
    assert (
        raydd.open(config, store).experts().record.fingerprint
        != raydd.open(with_settings(config, {"experts.loss": "infonce"}), store).experts().record.fingerprint
    )
    made = stages.final_synthetic(raydd.open(config, store))
    assert made.loss_parameters["bias"] != -10.0
    assert (
        stages.final_synthetic(raydd.open(config, store)).loss_parameters == made.loss_parameters
    )  # read from the record
    assert len(stages.synthetic_scores(raydd.open(config, store)).seeds) == 2


def test_students_that_diverge_say_so(config: Config, store: Store) -> None:
    wild = with_settings(config, {"distill.fit_rates": False, "distill.steps": 0})
    object.__setattr__(wild.distill, "encoder_rate", 1e20)  # more than settings allow
    with pytest.raises(NonFiniteError, match=r"lower its distill\.encoder_rate"):
        stages.synthetic_scores(raydd.open(wild, store))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"distill.images": "features"},
            "distill.images is 'features', but must be pixels under distill.protocol encoder",
        ),
        ({"distill.start": "herding"}, "distill.start"),
        ({"distill.blend": "noise"}, "distill.blend"),
        ({"evaluate.baselines": ("herding",)}, "evaluate.baselines"),
    ],
)
def test_what_protocol_a_cannot_do_is_refused_at_once(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load(settings={"distill.protocol": "encoder", **settings})


def test_a_width_that_the_encoder_lacks_is_refused(config: Config, store: Store) -> None:
    with pytest.raises(ConfigError, match=r"experts\.width is 7"):
        raydd.open(with_settings(config, {"experts.width": 7}), store).experts()
