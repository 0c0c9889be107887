"""Herding against a plain loop in float64, and what it is for: the mean of the chosen follows the mean of all."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from joint_features import joint_of, make_joint

from raydd.distill.selections.herding import herd


@given(images=st.integers(2, 25), captions=st.integers(1, 3), seed=st.integers(0, 999), data=st.data())
@settings(max_examples=40)
def test_each_choice_is_the_loop_s(images: int, captions: int, seed: int, data: st.DataObject) -> None:
    joint = make_joint(images, captions, seed)
    pairs = data.draw(st.integers(1, images))
    rows = joint_of(joint)
    mean, total, free = rows.mean(0), torch.zeros(rows.shape[1], dtype=torch.float64), set(range(len(rows)))
    chosen = herd(joint, pairs).tolist()
    for count, choice in enumerate(chosen, start=1):
        assert choice in free
        gaps = {pair: float((mean - (total + rows[pair]) / count).norm()) for pair in free}
        assert gaps[choice] <= min(gaps.values()) + 1e-5
        total += rows[choice]
        free = {pair for pair in free if joint.image_of_text[pair] != joint.image_of_text[choice]}


def test_the_chosen_mean_is_nearer_to_all_than_a_random_one() -> None:
    joint = make_joint(300, 2, 0)
    rows = joint_of(joint)

    def gap(chosen: torch.Tensor) -> float:
        return float((rows[chosen].mean(0) - rows.mean(0)).norm())

    drawn = torch.randperm(600, generator=torch.Generator().manual_seed(1))[:30]
    assert gap(herd(joint, 30)) < gap(drawn) / 2
