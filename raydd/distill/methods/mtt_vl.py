"""MTT-VL: match trajectories through the unrolled student; the similarity is the identity, the loss InfoNCE.

Differences from the paper:
- Both heads are matched on frozen encoders; `--distill.protocol encoder` matches the image encoder and the text head,
  as the paper does.
- Dropout is off in the student of a distillation step.
"""

from raydd.distill.methods.method import FLICKR30K_100, Method

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
    published={**FLICKR30K_100, "distill.minibatch": 99},
    space="mtt_vl",
)
