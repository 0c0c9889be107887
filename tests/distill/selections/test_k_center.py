"""K-Center against a plain loop, its radius, and its seed."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from joint_features import joint_of, make_joint

from raydd.distill.selections.k_center import centres


@given(images=st.integers(2, 25), captions=st.integers(1, 3), seed=st.integers(0, 999), data=st.data())
@settings(max_examples=40)
def test_each_centre_is_the_farthest_from_those_before(
    images: int, captions: int, seed: int, data: st.DataObject
) -> None:
    joint = make_joint(images, captions, seed)
    distances = torch.cdist(joint_of(joint), joint_of(joint)).square()
    chosen = centres(joint, data.draw(st.integers(1, images)), seed).tolist()
    assert len({int(joint.image_of_text[pair]) for pair in chosen}) == len(chosen)
    free = set(range(len(distances)))
    for count, choice in enumerate(chosen):
        if count:
            nearest = {pair: float(distances[pair, chosen[:count]].min()) for pair in free}
            assert nearest[choice] >= max(nearest.values()) - 1e-5
        free = {pair for pair in free if joint.image_of_text[pair] != joint.image_of_text[choice]}


def test_more_centres_leave_a_smaller_radius_well_below_a_random_one_s() -> None:
    joint = make_joint(300, 1, 0, width=3)
    rows = joint_of(joint)
    chosen = centres(joint, 40, 0)

    def radius(pairs: torch.Tensor) -> float:
        return float(torch.cdist(rows, rows[pairs]).amin(1).max())

    radii = [radius(chosen[:count]) for count in (5, 10, 20, 40)]
    assert radii == sorted(radii, reverse=True)
    drawn = [radius(torch.randperm(300, generator=torch.Generator().manual_seed(seed))[:40]) for seed in range(20)]
    assert radii[-1] < min(drawn)


def test_the_seed_chooses_the_first_centre_alone() -> None:
    joint = make_joint(50, 2, 0)
    assert torch.equal(centres(joint, 10, 3), centres(joint, 10, 3))
    assert len({int(centres(joint, 1, seed)[0]) for seed in range(40)}) > 20
