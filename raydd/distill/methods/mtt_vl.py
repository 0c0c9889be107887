"""MTT-VL: match trajectories through the unrolled student; the similarity is the identity, the loss InfoNCE.

Differences from the paper:
- Both heads are matched, on frozen encoders. With `--distill.protocol encoder`, the image encoder and the text head are
  matched, as in the paper.
- Dropout is off in the student of a distillation step.
- The paper's code scores students at the image side's learned learning rate on both sides, constant over all epochs.
  Here each side has its own learning rate, and a tenth of it in the second half.
- The paper's code runs up to 50,000 steps, and so does the preset. In `raydd compare`, the row at published settings
  runs 3,000 steps, and keeps raydd's own optimiser and learning rates for the pairs, since the published ones are for
  pixels.
- In raydd's settings targets lie three epochs after the start snapshot (published: one), experts and students see image
  features minus their mean, and scored students have ten times the published weight decay. The presets have the
  published settings.
- Learned pixels are rounded to 8 bits; in the paper's code they are unbounded floats. They start from plainly resized
  photographs; learned features (also those of `features-then-pixels`) start from one augmented view of each photograph.
  The photographs are all different. In the code pixels start from augmented crops, and may use an image twice.
"""

from raydd.distill.methods.method import FLICKR30K_100, SCRIPTS, Method
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
    # The README of the reference code has the same settings, but minibatches of up to 100 pairs.
    published={**FLICKR30K_100, **SCRIPTS, "distill.minibatch": 100, "distill.temperature": MTT_VL_TEMPERATURE},
    protocol={"students.epochs": 50, "students.batch_size": 64, "evaluate.choice": "last"},
    space="mtt_vl",
)
