"""The selections beside loops over all candidates."""

import torch
from torch import Generator
from torch.nn.functional import normalize

from bench import published_selections
from raydd.distill.selections.evidence import Joint
from raydd.distill.selections.herding import herd
from raydd.distill.selections.k_center import centres


def joint_of(seed: int) -> tuple[Joint, torch.Tensor]:
    generator, owners = Generator().manual_seed(seed), torch.arange(15).repeat_interleave(2)
    images, texts = (normalize(torch.randn(count, 8, generator=generator)).half() for count in (15, 30))
    return Joint(images, texts, owners), torch.cat([images[owners], texts], dim=1).double()


def test_herding() -> None:
    joint, whole = joint_of(1)
    assert herd(joint, 6).tolist() == published_selections.herd(whole, joint.image_of_text, 6)


def test_k_center() -> None:
    joint, whole = joint_of(2)
    ours = centres(joint, 6, seed=3).tolist()
    assert ours == published_selections.centres(whole, joint.image_of_text, 6, first=ours[0])
