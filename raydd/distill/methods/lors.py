"""LoRS: learn the similarity matrix with the pairs, as diag(a) + alpha/r L R^T, under a weighted BCE.

Differences from the paper:
- Both heads are matched, on frozen encoders. With `--distill.protocol encoder`, the image encoder and the text head are
  matched, as in the paper.
- Dropout is off in the student of a distillation step, so TESLA sees the same student when it repeats the steps.
- In raydd's settings targets lie three epochs after the start snapshot (published: one), experts and students see image
  features minus their mean, and scored students have ten times the published weight decay. The presets have the
  published settings.
- Learned pixels are rounded to 8 bits; in the paper's code they are unbounded floats. They start from plainly resized
  photographs; learned features (also those of `features-then-pixels`) start from one augmented view of each photograph.
  The photographs are all different. In the code pixels start from augmented crops, and may use an image twice.
- In `raydd compare`, the row at published settings keeps raydd's own optimiser and learning rates for the pairs, since
  the published ones are for pixels. The presets use those of the scripts.
- The paper's eNCE, which is InfoNCE against the learned similarity, is `--distill.loss infonce`.
"""

from raydd.distill.methods.method import FLICKR30K_100, SCRIPTS, SIMILARITY, Method

METHOD = Method(
    paper="Xu et al., Low-Rank Similarity Mining for Multimodal Dataset Distillation, ICML 2024, arXiv:2406.03793",
    settings={
        "distill.blend": "none",
        "distill.similarity": "low-rank",
        "distill.loss": "wbce",
        "distill.gradient": "constant-memory",
        "distill.matched": "both-heads",
    },
    published={**FLICKR30K_100, **SIMILARITY, **SCRIPTS},
    protocol={"evaluate.checks": 11},
    space="lors",
)
