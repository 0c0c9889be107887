"""TESLA-VL: MTT-VL with TESLA's constant-memory gradient and BCE; the baseline that LoRS introduced.

Differences from the paper:
- Both heads are matched on frozen encoders; `--distill.protocol encoder` matches the image encoder and the text head,
  as the paper does.
- Dropout is off in the student of a distillation step, so both passes of TESLA see the same student.
- BCE is unweighted, as the name says. LoRS's tables weight it for this row too (`--distill.loss wbce`).
"""

from raydd.distill.methods.method import FLICKR30K_100, Method

METHOD = Method(
    paper="Cui et al., ICML 2023, arXiv:2211.10586, on pairs as in Xu et al., ICML 2024",
    settings={
        "distill.blend": "none",
        "distill.similarity": "identity",
        "distill.loss": "bce",
        "distill.gradient": "constant-memory",
        "distill.matched": "both-heads",
    },
    published=FLICKR30K_100,
    space="tesla_vl",
)
