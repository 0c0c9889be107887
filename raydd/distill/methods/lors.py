"""LoRS: learn the similarity matrix with the pairs, as diag(a) + alpha/r L R^T, under a weighted BCE.

Differences from the paper:
- Both heads are matched on frozen encoders; `--distill.protocol encoder` matches the image encoder and the text head,
  as the paper does.
- Dropout is off in the student of a distillation step, so both passes of TESLA see the same student.
- Its eNCE, InfoNCE against the learned similarity, is `--distill.loss infonce`.
"""

from raydd.distill.methods.method import FLICKR30K_100, SIMILARITY, Method

METHOD = Method(
    paper="Xu et al., Low-Rank Similarity Mining for Multimodal Dataset Distillation, ICML 2024, arXiv:2406.03793",
    settings={
        "distill.blend": "none",
        "distill.similarity": "low-rank",
        "distill.loss": "wbce",
        "distill.gradient": "constant-memory",
        "distill.matched": "both-heads",
    },
    published={**FLICKR30K_100, **SIMILARITY},
    space="lors",
)
