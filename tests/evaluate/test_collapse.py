"""Collapse measures where their value is known."""

import pytest
import torch

from raydd.evaluate.collapse import collapse_measures, encoder_similarities, mean_cosine


def test_mean_cosine_equals_the_loop() -> None:
    rows = torch.randn(6, 4, dtype=torch.float64)
    cosines = [float(torch.cosine_similarity(rows[i], rows[j], dim=0)) for i in range(6) for j in range(6) if i != j]
    assert mean_cosine(rows) == pytest.approx(sum(cosines) / len(cosines))


def test_orthogonal_rows_are_spread_and_equal_modalities_have_no_gap() -> None:
    rows = torch.eye(8)
    measures = collapse_measures(rows, rows)
    assert measures["collapse/modality_gap"] == 0
    assert measures["collapse/image_similarity"] == pytest.approx(0, abs=1e-6)
    assert measures["collapse/image_rank"] == pytest.approx(7, rel=1e-3)  # one direction goes with the mean


def test_a_collapsed_modality_shows() -> None:
    generator = torch.Generator().manual_seed(0)
    spread = torch.randn(50, 20, generator=generator)
    line = torch.randn(50, 1, generator=generator) * torch.randn(20, generator=generator) + 5
    measures = collapse_measures(spread, line)
    assert measures["collapse/text_similarity"] > 0.5 > measures["collapse/image_similarity"]
    assert measures["collapse/text_rank"] < 2 < 10 < measures["collapse/image_rank"]
    assert measures["collapse/text_concentration"] > 0.95 > measures["collapse/image_concentration"]


def test_samples_with_a_common_part_are_alike_before_any_head() -> None:
    images, texts = torch.eye(4), torch.eye(4, 6) + 1
    similar = encoder_similarities(images, texts)
    assert similar["collapse/image_encoder_similarity"] == pytest.approx(0, abs=1e-6)
    assert similar["collapse/text_encoder_similarity"] == pytest.approx(8 / 9)
