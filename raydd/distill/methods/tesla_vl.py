"""TESLA-VL: MTT-VL with TESLA's constant-memory gradient and the weighted BCE; the baseline that LoRS introduced.

Differences from the paper:
- Both heads are matched on frozen encoders; `--distill.protocol encoder` matches the image encoder and the text head,
  as the paper does.
- Dropout is off in the student of a distillation step, so both passes of TESLA see the same student.
- BCE is weighted, as in LoRS's tables ("TESLA wBCE"); the unweighted one is `--distill.loss bce`.
- LoRS's code has no script for this row; the numbers are those of its script for LoRS.
- Learned pixels are kept to 8 bits; the code's are unbounded floats. Starts are plainly resized photographs, each of
  another image; the code's are augmented crops, and an image may come twice.
- A published row of `raydd compare` has raydd's own outer optimiser and learning rates, since the published ones are
  those of pixels; the preset has the script's.
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
