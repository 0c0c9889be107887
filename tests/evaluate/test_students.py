"""Students: a batch of seeds equals each seed alone, and learns."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_pairs import pairs

from bench.asked import as_on_gpu
from bench.counting import count_operations
from raydd.config import StudentsConfig
from raydd.distill.heads import embed
from raydd.evaluate.students import StudentsRun, train_students

RECIPE = StudentsConfig(epochs=20, batch_size=8)


@given(count=st.integers(2, 20))
@settings(max_examples=5)
def test_students_side_by_side_equal_students_alone(count: int) -> None:
    together = train_students(pairs(count), RECIPE, width=11, temperature=0.1, seeds=range(3))
    for index in range(3):
        alone = train_students(pairs(count), RECIPE, width=11, temperature=0.1, seeds=[index])
        for many, one in zip(together, alone, strict=True):
            for part, single in zip(many, one, strict=True):
                torch.testing.assert_close(part[index], single[0], rtol=1e-3, atol=1e-4)
    assert not torch.equal(together[0].fc_weight[0], together[0].fc_weight[1])


def test_a_centre_is_subtracted_in_training_and_folded_into_the_heads() -> None:
    """W (x - c) + b = W x + (b - W c): the heads of centred students give the same for features with the centre."""
    plain, centre = pairs(8), torch.linspace(-2, 2, 9)
    shifted = replace(plain, image_features=plain.image_features + centre, image_centre=centre)
    (image, text), (image_folded, text_folded) = (
        train_students(one, RECIPE, width=11, temperature=0.1, seeds=[0, 1]) for one in (plain, shifted)
    )
    torch.testing.assert_close(
        embed(image_folded, shifted.image_features.expand(2, -1, -1)),
        embed(image, plain.image_features.expand(2, -1, -1)),
        rtol=1e-4,
        atol=1e-5,
    )
    torch.testing.assert_close(text_folded.fc_weight, text.fc_weight, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(image_folded.projection_bias, image.projection_bias)


def test_students_train_on_the_loss_s_learned_parameters(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "docs/examples/own_loss.py").read_text()
    (tmp_path / "ours.py").write_text(text)
    (tmp_path / "other.py").write_text(text.replace("-10.0", "-4.0"))
    given = replace(pairs(8), loss=f"{tmp_path}/ours.py:LOSS")
    start, learned, other = (
        train_students(one, RECIPE, width=11, temperature=0.1, seeds=[0, 1])[0].fc_weight
        for one in (
            given,
            replace(given, loss_parameters={"bias": -4.0}),
            replace(given, loss=f"{tmp_path}/other.py:LOSS"),
        )
    )
    assert torch.equal(learned, other)
    assert not torch.allclose(learned, start)


@pytest.mark.parametrize("batch_size", [8, 30])
@pytest.mark.parametrize("loss", ["infonce", "wbce"])
@pytest.mark.parametrize("weight_decay", [5e-3, 60.0])  # with the larger one, each step begins anew
def test_an_epoch_waits_for_nothing_and_copies_its_minibatches_once(
    batch_size: int, loss: str, weight_decay: float
) -> None:
    given = replace(pairs(30), loss=loss)
    recipe = StudentsConfig(epochs=2, batch_size=batch_size, weight_decay=weight_decay)
    with as_on_gpu():
        run = StudentsRun(given, recipe, width=11, temperature=0.1, seeds=[0, 1, 1], device="meta")
        seen = count_operations(run.train_epoch)
    assert not seen.waits
    assert (seen.copies, seen.copied_bytes) == (1, 8 * 2 * batch_size * (1 if batch_size == 30 else 4))
