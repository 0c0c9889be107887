"""Zero-shot accuracies against a plain count, and class embeddings that average their prompts."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raydd.distill.heads import embed, initial_heads, to_sphere
from raydd.errors import NonFiniteError
from raydd.evaluate.zero_shot import TEMPLATES, accuracies, class_directions, prompts


@given(seed=st.integers(0, 999), images=st.integers(1, 20), classes=st.integers(1, 12))
@settings(max_examples=50)
def test_accuracy_counts_images_whose_class_is_near(seed: int, images: int, classes: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(images, 5, generator=generator)
    directions = torch.randn(classes, 5, generator=generator)
    labels = torch.randint(classes, (images,), generator=generator)
    found = accuracies(rows, directions, labels)
    for k in (1, 5):
        hits = [
            int(label) in sorted(range(classes), key=lambda one, row=row: -float(row @ directions[one]))[:k]
            for row, label in zip(rows, labels, strict=True)
        ]
        assert found[f"ACC@{k}"] == pytest.approx(100 * sum(hits) / images)


def test_a_tie_counts_as_lost() -> None:
    assert accuracies(torch.ones(1, 2), torch.ones(2, 2), torch.tensor([1]))["ACC@1"] == 0


def test_a_class_is_the_mean_direction_of_its_own_prompts() -> None:
    assert len(prompts(["dog", "cat"])) == 2 * len(TEMPLATES)
    assert all("cat" in prompt for prompt in prompts(["dog", "cat"])[len(TEMPLATES) :])
    _, text = initial_heads(4, 6, 8, seed=0)
    features = torch.randn(2 * len(TEMPLATES), 6)
    own = to_sphere(embed(text, features[len(TEMPLATES) :]).mean(0))
    torch.testing.assert_close(class_directions(embed(text, features))[1], own)


def test_embeddings_that_are_not_finite_are_refused() -> None:
    with pytest.raises(NonFiniteError):
        accuracies(torch.full((1, 2), torch.nan), torch.ones(2, 2), torch.tensor([0]))
