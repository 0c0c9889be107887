"""LoRS: learn the similarity matrix with the pairs, as diag(a) + alpha/r L R^T, under a weighted BCE.

Differences from the paper:
- Both heads are matched on frozen encoders; `--distill.protocol encoder` matches the image encoder and the text head,
  as the paper does.
- Dropout is off in the student of a distillation step, so TESLA sees the same student when it repeats the steps.
- Learned pixels are rounded to 8 bits; the code's are unbounded floats. Pairs start from plainly resized photographs,
  all different; the code's start from augmented crops, and may use an image twice.
- The row at published settings in `raydd compare` keeps raydd's own optimiser and learning rates for the pairs, since
  the published ones are for pixels; the presets use the scripts'.
- The paper's eNCE, InfoNCE against the learned similarity, is `--distill.loss infonce`.
"""

from raydd.distill.methods.method import FLICKR30K_100, SIMILARITY, STEPS, Method

METHOD = Method(
    paper="Xu et al., Low-Rank Similarity Mining for Multimodal Dataset Distillation, ICML 2024, arXiv:2406.03793",
    settings={
        "distill.blend": "none",
        "distill.similarity": "low-rank",
        "distill.loss": "wbce",
        "distill.gradient": "constant-memory",
        "distill.matched": "both-heads",
    },
    published={**FLICKR30K_100, **SIMILARITY, **STEPS},
    protocol={"evaluate.checks": 11},
    space="lors",
)
