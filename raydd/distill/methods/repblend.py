"""RepBlend: blend the representations of a minibatch before the heads, match the experts of both heads.

The switches are the paper's. The numbers are raydd's own, for features (see `raydd.presets` for the published ones).

Differences from the paper:
- The gradient goes through all student steps; the published code stops it at the start of each (TESLA).
- Dropout is off in the student of a distillation step; the published code draws it anew when it repeats the student's
  steps.
- Targets lie two epochs beyond the start snapshot (`distill.target_epochs`); published is one.
- The student's loss is InfoNCE against the learned similarity, for runs of some hundred steps. The published weighted
  BCE needs about a thousand: on Flickr8k its r_mean on val is 13 after 120 steps, 46 after 960.
- Learned pixels are rounded to 8 bits; the code's are unbounded floats. Pairs start from plainly resized photographs,
  all different; the code's start from augmented crops, and may use an image twice.
- The row at published settings in `raydd compare` keeps raydd's own optimiser and learning rates for the pairs, since
  the published ones are for pixels; the presets use the scripts'.
- Scored students use the learned learning rate times 1 - momentum, since it was learned for plain SGD steps;
  `distill.fit_rates` then multiplies that by the power of two that is best on val.
"""

from raydd.distill.methods.method import FLICKR30K_100, SIMILARITY, STEPS, Method

METHOD = Method(
    paper="Zhang et al., NeurIPS 2025, arXiv:2505.14705",
    settings={
        "distill.blend": "beta",
        "distill.similarity": "low-rank",
        "distill.matched": "both-heads",
    },
    published={
        **FLICKR30K_100,
        **SIMILARITY,
        **STEPS,
        "distill.blend_beta": 1.0,
        "distill.loss": "wbce",
        "distill.gradient": "constant-memory",
    },
    space="repblend_alone",
)
