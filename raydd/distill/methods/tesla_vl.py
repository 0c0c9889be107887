"""TESLA-VL: MTT-VL with TESLA's constant-memory gradient and the weighted BCE; the baseline that LoRS introduced.

Differences from the paper:
- Both heads are matched on frozen encoders; `--distill.protocol encoder` matches the image encoder and the text head,
  as the paper does.
- Dropout is off in the student of a distillation step, so TESLA sees the same student when it repeats the steps.
- BCE is weighted, as in LoRS's tables ("TESLA wBCE"); the unweighted one is `--distill.loss bce`.
- LoRS's code has no script for TESLA-VL; the numbers are those of its script for LoRS.
- Learned pixels are rounded to 8 bits; the code's are unbounded floats. Pairs start from plainly resized photographs,
  all different; the code's start from augmented crops, and may use an image twice.
- The row at published settings in `raydd compare` keeps raydd's own optimiser and learning rates for the pairs, since
  the published ones are for pixels; the presets use the script's.
"""

from raydd.distill.methods.method import FLICKR30K_100, STEPS, Method

METHOD = Method(
    paper="Cui et al., ICML 2023, arXiv:2211.10586, on pairs as in Xu et al., ICML 2024",
    settings={
        "distill.blend": "none",
        "distill.similarity": "identity",
        "distill.loss": "wbce",
        "distill.gradient": "constant-memory",
        "distill.matched": "both-heads",
    },
    published={**FLICKR30K_100, **STEPS},
    protocol={"evaluate.checks": 11},
    space="tesla_vl",
)
