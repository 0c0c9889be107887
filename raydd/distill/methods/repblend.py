"""RepBlend: blend the representations of a minibatch before the heads, and match the trajectories of both heads.

The switches are the paper's. The other settings are raydd's own (see `raydd.presets` for the published ones).

Differences from the paper:
- The gradient goes through all student steps; the published code stops it at the start of each step (TESLA).
- Dropout is off in the student of a distillation step; the published code draws it anew when it repeats the student's
  steps.
- Targets lie three epochs after the start snapshot (`distill.target_epochs`); the published number is one.
- Image features are used minus their mean, and scored students have ten times the published weight decay.
- Learned pixels are rounded to 8 bits; in the paper's code they are unbounded floats. They start from plainly resized
  photographs; learned features (also those of `features-then-pixels`) start from one augmented view of each photograph.
  The photographs are all different. In the code pixels start from augmented crops, and may use an image twice.
- In `raydd compare`, the row at published settings keeps raydd's own optimiser and learning rates for the pairs, since
  the published ones are for pixels. The presets use those of the scripts.
- Scored students use the learned learning rate times 1 - momentum, since it was learned for steps of plain SGD.
  `distill.fit_rates` then multiplies the result by the power of two that is best on val.
"""

from raydd.distill.methods.method import FLICKR30K_100, SCRIPTS, SIMILARITY, Method

METHOD = Method(
    paper="Zhang et al., NeurIPS 2025, arXiv:2505.14705",
    settings={
        "distill.blend": "beta",
        "distill.similarity": "low-rank",
        "distill.loss": "wbce",
        "distill.matched": "both-heads",
    },
    published={
        **FLICKR30K_100,
        **SIMILARITY,
        **SCRIPTS,
        "distill.blend_beta": 1.0,
        "distill.gradient": "constant-memory",
    },
    space="repblend",
)
