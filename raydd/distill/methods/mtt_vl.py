"""MTT-VL: match trajectories through the unrolled student; the similarity is the identity, the loss InfoNCE.

Differences from the paper:
- Both heads are matched on frozen encoders; `--distill.protocol encoder` matches the image encoder and the text head,
  as the paper does.
- Dropout is off in the student of a distillation step.
- The code scores students at the image side's learned learning rate on both sides, constant over all epochs; here each
  side has its own, a tenth of it in the second half.
- The code may run 50,000 steps, as the preset does; a published row of `raydd compare` runs 3,000. It has raydd's own
  outer optimiser and learning rates, since the published ones are those of pixels.
- Learned pixels are kept to 8 bits; the code's are unbounded floats. Starts are plainly resized photographs, each of
  another image; the code's are augmented crops, and an image may come twice.
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
