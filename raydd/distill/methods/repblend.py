"""RepBlend: blend the representations of a minibatch before the heads, match the experts of both heads.

The switches are the paper's. The numbers are raydd's own, for features (see `raydd.presets` for the published ones).

Differences from the paper:
- The gradient goes through all student steps; the published code stops it at the start of each (TESLA).
- Dropout is off in the student of a distillation step; the published code draws it anew in its second pass.
- Targets lie several epochs beyond the start snapshot, one epoch as published being far worse (README).
- The student's loss is InfoNCE against the learned similarity; the published weighted BCE is far worse (README).
- Students use the learned rate times (1 - momentum): it was learned for plain SGD steps.
"""

from raydd.distill.methods.method import Method

METHOD = Method(
    paper="Zhang et al., NeurIPS 2025, arXiv:2505.14705",
    settings={
        "distill.blend": "beta",
        "distill.similarity": "low-rank",
        "distill.matched": "both-heads",
    },
    # The reference code's scripts for Flickr30k and 100 pairs.
    published={
        "experts.lr": 0.1,
        "distill.blend_beta": 1.0,
        "distill.loss": "wbce",
        "distill.gradient": "constant-memory",
        "distill.rank": 10,
        "distill.alpha": 3.0,
        "distill.student_steps": 8,
        "distill.minibatch": 20,
        "distill.target_epochs": 1,
        "distill.max_start_epoch": 2,
        "distill.start_rate": 0.1,
    },
    space="repblend_alone",
)
