"""CovMatch: match the cross-covariance of images and texts, and the mean of each, without experts and students.

Differences from the paper:
- Both encoders are frozen, and the covariances are those of their features. The paper trains both encoders, and
  computes covariances after their projections, with a model that is trained during distillation and reset every 50
  steps.
- Features are standardised by the mean and deviation of the real ones, so `distill.mean_weight` is not in the paper's
  units.
- The real covariance is computed over all real pairs, not over a minibatch.
- Adam takes a few hundred steps on features; the paper takes 10,000 steps of SGD with momentum.
"""

from raydd.distill.methods.method import Method

METHOD = Method(
    paper="Lee and Chung, CovMatch, NeurIPS 2025, arXiv:2510.18583",
    settings={
        "distill.objective": "covariance",
        "distill.blend": "none",
        "distill.similarity": "identity",
        "distill.loss": "infonce",
    },
    published={"distill.covariance_scale": 2.0, "distill.mean_weight": 0.1},
    space="covmatch",
)
