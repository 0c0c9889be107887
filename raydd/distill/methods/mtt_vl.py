"""MTT-VL: match trajectories through the unrolled student; the similarity is the identity, the loss InfoNCE.

Differences from the paper:
- Both heads are matched on frozen encoders; `--distill.protocol encoder` matches the image encoder and the text head,
  as the paper does.
- Dropout is off in the student of a distillation step.
- The code scores students at the image side's learned learning rate on both sides, constant over all epochs; here each
  side has its own, a tenth of it in the second half.
- The code runs up to 50,000 steps, as the preset does. The row at published settings in `raydd compare` runs 3,000, and
  keeps raydd's own optimiser and learning rates for the pairs, since the published ones are for pixels.
- Learned pixels are rounded to 8 bits; the code's are unbounded floats. Pairs start from plainly resized photographs,
  all different; the code's start from augmented crops, and may use an image twice.
"""

from raydd.distill.methods.method import FLICKR30K_100, STEPS, Method
from raydd.presets import MTT_VL_TEMPERATURE

METHOD = Method(
    paper="Wu et al., Vision-Language Dataset Distillation, TMLR 2024, arXiv:2308.07545",
    settings={
        "distill.blend": "none",
        "distill.similarity": "identity",
        "distill.loss": "infonce",
        "distill.gradient": "exact",
        "distill.matched": "both-heads",
        "distill.minibatch_order": "random",
    },
    # The reference code's README has the same, but minibatches of up to 100 pairs.
    published={**FLICKR30K_100, **STEPS, "distill.minibatch": 100, "distill.temperature": MTT_VL_TEMPERATURE},
    protocol={"students.epochs": 50, "students.batch_size": 64, "evaluate.choice": "last"},
    space="mtt_vl",
)
