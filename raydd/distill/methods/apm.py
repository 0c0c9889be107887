"""APM: match the linear maps from images to texts and back, without experts and students.

Differences from the paper:
- The paper's code was not available. This method follows the paper's idea: whitened projectors replace the
  cross-covariance, in turn for five subsets of captions.
- Encoders are frozen. The projectors are those of the encoders' features, standardised by the mean and deviation of the
  real ones.
- Inverses have a ridge penalty, `distill.ridge_strength`; the paper takes pseudo-inverses.
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
