"""APM: match the linear maps from images to texts and back, without experts and students.

Differences from the paper:
- No code of the paper could be had: what is here follows its idea, that whitened projectors take the place of the
  cross-covariance, in turn for five subsets of captions.
- Encoders are frozen, and projectors are those of their features, standardised by the mean and deviation of real ones.
- Inverses have a ridge, `distill.ridge_strength`, where the paper takes pseudo-inverses.
- The means of the features are matched too, as in CovMatch.
- Adam takes a few hundred steps on features.
"""

from raydd.distill.methods.method import Method

METHOD = Method(
    paper="APM, ICML 2026",
    settings={
        "distill.objective": "projector",
        "distill.blend": "none",
        "distill.similarity": "identity",
        "distill.loss": "infonce",
    },
    space="apm",
)
