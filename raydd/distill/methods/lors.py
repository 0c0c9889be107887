"""LoRS: learn the similarity matrix with the pairs, as diag(a) + alpha/r L R^T, under a weighted BCE.

Differences from the paper:
- Both heads are matched on frozen encoders; the paper matches the image encoder and the text head.
- Dropout is off in the student of a distillation step, so both passes of TESLA see the same student.
- Its eNCE, InfoNCE against the learned similarity, is `--distill.loss infonce`.
"""

from raydd.distill.methods.method import Method

METHOD = Method(
    paper="Xu et al., Low-Rank Similarity Mining for Multimodal Dataset Distillation, ICML 2024, arXiv:2406.03793",
    settings={
        "distill.blend": "none",
        "distill.similarity": "low-rank",
        "distill.loss": "wbce",
        "distill.gradient": "constant-memory",
        "distill.matched": "both-heads",
    },
    # The reference code's scripts for Flickr30k and 100 pairs.
    published={
        "experts.lr": 0.1,
        "distill.rank": 10,
        "distill.alpha": 3.0,
        "distill.student_steps": 8,
        "distill.minibatch": 20,
        "distill.target_epochs": 1,
        "distill.max_start_epoch": 2,
        "distill.start_rate": 0.1,
    },
    space="lors",
)
