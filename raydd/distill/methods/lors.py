"""LoRS: learn the similarity matrix with the pairs, as diag(a) + alpha/r L R^T, under a weighted BCE.

Differences from the paper:
- Both heads are matched on frozen encoders; `--distill.protocol encoder` matches the image encoder and the text head,
  as the paper does.
- Dropout is off in the student of a distillation step, so both passes of TESLA see the same student.
- Learned pixels are kept to 8 bits; the code's are unbounded floats. Starts are plainly resized photographs, each of
  another image; the code's are augmented crops, and an image may come twice.
- A published row of `raydd compare` has raydd's own outer optimiser and learning rates, since the published ones are
  those of pixels; the presets have the scripts'.
- Its eNCE, InfoNCE against the learned similarity, is `--distill.loss infonce`.
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
