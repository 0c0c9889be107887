"""A synthetic set: what it takes to keep one."""

from dataclasses import replace

import torch

from raydd.distill.similarity import Similarity
from raydd.distill.synthetic import SyntheticSet


def test_what_a_student_needs_is_counted_in_numbers_and_bytes() -> None:
    factors = {"diagonal": torch.zeros(3), "left": torch.zeros(3, 2), "right": torch.zeros(3, 2)}
    none = torch.zeros(3, dtype=torch.long)
    features = SyntheticSet(
        torch.zeros(3, 5),
        torch.zeros(3, 4),
        Similarity("low-rank", 3, factors, alpha=1.0),
        0.1,
        0.2,
        "mine",
        start_images=none,
        start_captions=none,
        loss_parameters={"bias": 1.0, "scale": 2.0, "shift": 3.0},
    )
    assert features.stored_numbers == 15 + 12 + 15 + 2 + 3
    assert features.stored_bytes == 4 * (15 + 12 + 15) + 8 * (2 + 3)
    pixels = replace(features, pixels=torch.zeros(3, 3, 8, 8, dtype=torch.uint8))  # in place of the features
    assert pixels.stored_numbers == 3 * 3 * 64 + 12 + 15 + 2 + 3
    assert pixels.stored_bytes == 3 * 3 * 64 + 4 * (12 + 15) + 8 * (2 + 3)
