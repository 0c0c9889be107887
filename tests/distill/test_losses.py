"""Losses against written-out loops and closed forms; losses of a user's own, and their faults."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from raydd.distill.loss_names import LOSS_NAMES
from raydd.distill.losses import LOSSES, Loss, bce, find_loss, info_nce, weighted_bce
from raydd.errors import ConfigError


def slow_weighted_bce(logits: Tensor, similarity: Tensor) -> float:
    sums, counts = {True: 0.0, False: 0.0}, {True: 0, False: 0}
    for i in range(len(logits)):
        for j in range(len(logits)):
            p, s = 1 / (1 + math.exp(-float(logits[i, j]))), float(similarity[i, j])
            sums[s > 0.5] += -s * math.log(p + 1e-6) - (1 - s) * math.log(1 - p + 1e-6)
            counts[s > 0.5] += 1
    return sum(sums[kind] / (counts[kind] + 1e-6) for kind in (True, False)) / 2


@given(size=st.integers(1, 6), seed=st.integers(0, 10**6))
@settings(max_examples=25)
def test_weighted_bce_equals_its_formula(size: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(size, size, generator=generator, dtype=torch.float64)
    similarity = 1.5 * torch.rand(size, size, generator=generator, dtype=torch.float64) - 0.2
    assert float(weighted_bce(logits, similarity)) == pytest.approx(slow_weighted_bce(logits, similarity), rel=1e-9)


def test_closed_forms() -> None:
    zeros, eye = torch.zeros(4, 4, dtype=torch.float64), torch.eye(4, dtype=torch.float64)
    assert float(bce(zeros, eye)) == pytest.approx(math.log(2))
    assert float(info_nce(zeros, eye)) == pytest.approx(math.log(4))
    assert float(weighted_bce(zeros, eye)) == pytest.approx(math.log(2), rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_students_side_by_side_have_each_their_own_loss(name: str) -> None:
    logits, similarity = torch.randn(3, 5, 5), torch.eye(5)
    together = LOSSES[name](logits, similarity)
    assert together.shape == (3,)
    for student in range(3):
        torch.testing.assert_close(together[student], LOSSES[name](logits[student], similarity))


@pytest.mark.parametrize("name", LOSSES)
def test_images_and_texts_are_treated_alike(name: str) -> None:
    logits, similarity = torch.randn(5, 5), torch.rand(5, 5)
    torch.testing.assert_close(LOSSES[name](logits, similarity), LOSSES[name](logits.T, similarity.T))


SIGLIP = f"{Path(__file__).parents[2] / 'docs/examples/own_loss.py'}:LOSS"


def test_the_names_that_settings_know_are_the_registry() -> None:
    assert tuple(LOSSES) == LOSS_NAMES
    assert find_loss("bce") is LOSSES["bce"]


def slow_siglip(logits: Tensor, bias: float) -> float:
    total = 0.0
    for i in range(len(logits)):
        for j in range(len(logits)):
            z = 1 if i == j else -1
            total -= math.log(1 / (1 + math.exp(-z * (float(logits[i, j]) + bias))))
    return total / len(logits)


def test_the_example_is_siglip_s_formula() -> None:
    loss, eye = find_loss(SIGLIP), torch.eye(5, dtype=torch.float64)
    logits = 3 * torch.randn(2, 5, 5, dtype=torch.float64)
    found = loss(logits, eye.expand(2, 5, 5), {"bias": torch.tensor(-2.0, dtype=torch.float64)})
    assert found.tolist() == pytest.approx([slow_siglip(one, -2.0) for one in logits])
    assert float(loss(logits[0], eye)) == pytest.approx(slow_siglip(logits[0], -10.0))


def test_a_parameter_without_a_learned_value_starts_where_the_loss_says() -> None:
    loss, like = Loss(bce, {"a": 1.0, "b": 2.0}), torch.zeros((), dtype=torch.float64)
    tensors = loss.tensors({"b": 3.5}, like)
    assert {name: float(value) for name, value in tensors.items()} == {"a": 1.0, "b": 3.5}
    assert tensors["a"].dtype == torch.float64


@pytest.mark.parametrize(
    ("body", "cause"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("undefined", "NameError"),
        ("logits.missing()", "AttributeError"),
        ("logits", r"it returned shape \[3, 3\]"),
        ("logits.mean(-1, keepdim=True).mean(0)", r"it returned shape \[1\]"),
        ("0.5", "it returned a float"),
        ("None", "it returned a NoneType"),
        ("similarity.sum().detach()", "does not depend on the logits"),
        ("logits.mean() * float('nan')", "it returned nan on finite logits"),
        ("logits.sqrt().sum()", "it returned nan on finite logits"),
        ("(logits - logits).sqrt().sum()", "its gradient is NaN or infinite"),
        ("logits.sum() if logits.device.type == 'cuda' else sys.exit", "NameError"),
        ("exit(0)", "line 2: SystemExit: 0"),
        ("exit('no')", "line 2: SystemExit: no"),
    ],
)
def test_a_fault_in_a_loss_of_one_s_own_names_file_and_cause(tmp_path: Path, body: str, cause: str) -> None:
    file = tmp_path / "mine.py"
    file.write_text(f"def loss(logits, similarity):\n    return {body}\n")
    with pytest.raises(ConfigError, match=rf"^experts\.loss .*mine\.py:loss failed.*{cause}.* Correct the function\.$"):
        find_loss(f"{file}:loss", "experts.loss")


def test_a_fault_that_comes_later_names_its_line(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "def loss(logits, similarity):\n    if len(logits) > 3:\n        return logits.no()\n    return logits.mean()\n"
    )
    found = find_loss(f"{file}:loss")
    with pytest.raises(ConfigError, match=r"mine\.py:loss failed in .*mine\.py line 3: AttributeError"):
        found(torch.zeros(4, 4), torch.eye(4))


def test_a_nan_that_comes_later_is_a_value_that_ends_its_own_distillation(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def loss(logits, similarity):\n    return logits.mean() / (len(logits) < 4)\n")
    found = find_loss(f"{file}:loss")(torch.zeros(4, 4), torch.eye(4))
    assert not found.isfinite()


def test_a_long_message_of_a_loss_is_told_on_one_short_line(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def loss(logits, similarity):\n    raise ValueError('x\\n' * 1000)\n")
    with pytest.raises(ConfigError, match="x x x") as error:
        find_loss(f"{file}:loss")
    assert len(str(error.value).replace(str(tmp_path), "")) < 400
    assert "\n" not in str(error.value)


def test_logits_that_diverged_are_no_fault_of_the_loss(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def loss(logits, similarity):\n    return (logits * similarity).mean()\n")
    assert math.isnan(float(find_loss(f"{file}:loss")(torch.full((2, 2), torch.nan), torch.eye(2))))


def test_what_is_no_loss_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("loss = 3\n")
    with pytest.raises(ConfigError, match=r"is an int, but must be a function of logits and similarity"):
        find_loss(f"{file}:loss")
    with pytest.raises(ConfigError, match=r"experts\.loss 'siglip' is unknown\. Known: bce, infonce, wbce\."):
        find_loss("siglip", "experts.loss")
