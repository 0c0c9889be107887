"""Measures of modality collapse: how alike samples are within a modality, and how far apart the modalities are.

Letters: N pairs, D width of the space in which collapse is measured, d and e widths of the encoders.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from raydd.distill.heads import to_sphere


def collapse_measures(images: Float[Tensor, "N D"], texts: Float[Tensor, "N D"]) -> dict[str, float]:
    """Return the collapse measures of paired embeddings in the shared space.

    - `collapse/image_similarity`, `collapse/text_similarity`: mean cosine of different samples of one modality.
    - `collapse/modality_gap`: distance between the modalities' mean directions (Liang et al., NeurIPS 2022).
    - `collapse/image_concentration`, `collapse/text_concentration`: share of the variance in the leading tenth of the
      principal directions; 1 means that the modality lies in few directions. RepBlend's paper names a concentration
      ratio but gives no formula, so these numbers are not the paper's.
    - `collapse/image_rank`, `collapse/text_rank`: effective rank, the exponential of the entropy of the variance
      shares (Roy and Vetterli, 2007); at most N - 1.
    """
    images, texts = to_sphere(images), to_sphere(texts)
    measures = {"collapse/modality_gap": float((images.mean(0) - texts.mean(0)).norm())}
    for name, rows in (("image", images), ("text", texts)):
        shares = _variance_shares(rows)
        leading = max(1, round(0.1 * len(shares)))
        entropy = -(shares * shares.clamp_min(1e-12).log()).sum()
        measures[f"collapse/{name}_similarity"] = mean_cosine(rows)
        measures[f"collapse/{name}_concentration"] = float(shares[:leading].sum())
        measures[f"collapse/{name}_rank"] = float(entropy.exp())
    return measures


def encoder_similarities(images: Float[Tensor, "N d"], texts: Float[Tensor, "N e"]) -> dict[str, float]:
    """Return how alike the encoder features of each modality are, before any head.

    `collapse/image_encoder_similarity`, `collapse/text_encoder_similarity`: mean cosine of different samples, which
    RepBlend's Figure 2 plots over the steps. Features that are not centred have a cosine above 0 from the start.
    """
    return {
        "collapse/image_encoder_similarity": mean_cosine(images),
        "collapse/text_encoder_similarity": mean_cosine(texts),
    }


def mean_cosine(rows: Float[Tensor, "N D"]) -> float:
    """Mean cosine over all pairs of different rows."""
    unit = to_sphere(rows)
    count = len(unit)
    return float((unit.sum(0).square().sum() - count) / (count * (count - 1)))


def _variance_shares(rows: Tensor) -> Float[Tensor, "R"]:
    variances = torch.linalg.svdvals(rows - rows.mean(0)).square()
    return variances / variances.sum().clamp_min(1e-12)
