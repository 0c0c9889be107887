"""Students: a batch of seeds equals each seed alone, and learns."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raydd.config import StudentsConfig
from raydd.distill.similarity import Similarity
from raydd.evaluate.students import TrainingPairs, train_students

RECIPE = StudentsConfig(epochs=20, batch_size=8)


def pairs(count: int, seed: int = 0) -> TrainingPairs:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(count, 5, generator=generator)
    image = hidden @ torch.randn(5, 9, generator=generator)
    text = hidden @ torch.randn(5, 7, generator=generator)
    return TrainingPairs(image, text, Similarity("identity", count, {}), 0.1, 0.1)


@given(count=st.integers(2, 20))
@settings(max_examples=5, deadline=None)
def test_students_side_by_side_equal_students_alone(count: int) -> None:
    together = train_students(pairs(count), RECIPE, width=11, temperature=0.1, seeds=range(3))
    for index in range(3):
        alone = train_students(pairs(count), RECIPE, width=11, temperature=0.1, seeds=[index])
        for many, one in zip(together, alone, strict=True):
            for part, single in zip(many, one, strict=True):
                torch.testing.assert_close(part[index], single[0], rtol=1e-3, atol=1e-4)
    assert not torch.equal(together[0].fc_weight[0], together[0].fc_weight[1])
