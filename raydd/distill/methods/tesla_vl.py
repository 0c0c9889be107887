"""TESLA-VL: MTT-VL with TESLA's constant-memory gradient and the weighted BCE; the baseline that LoRS introduced.

Differences from the paper:
- Both heads are matched, on frozen encoders. With `--distill.protocol encoder`, the image encoder and the text head are
  matched, as in the paper.
- Dropout is off in the student of a distillation step, so TESLA sees the same student when it repeats the steps.
- The BCE is weighted, as in LoRS's tables ("TESLA wBCE"); the unweighted BCE is `--distill.loss bce`.
- LoRS's code has no script for TESLA-VL; the settings are those of its script for LoRS.
- In raydd's settings targets lie three epochs after the start snapshot (published: one), experts and students see image
  features minus their mean, and scored students have ten times the published weight decay. The presets have the
  published settings.
- Learned pixels are rounded to 8 bits; in the paper's code they are unbounded floats. They start from plainly resized
  photographs; learned features (also those of `features-then-pixels`) start from one augmented view of each photograph.
  The photographs are all different. In the code pixels start from augmented crops, and may use an image twice.
- In `raydd compare`, the row at published settings keeps raydd's own optimiser and learning rates for the pairs, since
  the published ones are for pixels. The presets use those of the script.
"""

from raydd.distill.methods.method import FLICKR30K_100, SCRIPTS, Method

METHOD = Method(
    paper="Cui et al., ICML 2023, arXiv:2211.10586, on image-caption pairs as in Xu et al., ICML 2024",
    settings={
        "distill.blend": "none",
        "distill.similarity": "identity",
        "distill.loss": "wbce",
        "distill.gradient": "constant-memory",
        "distill.matched": "both-heads",
    },
    published={**FLICKR30K_100, **SCRIPTS},
    protocol={"evaluate.checks": 11},
    space="tesla_vl",
)
