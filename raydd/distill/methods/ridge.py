"""Ridge: learn the pairs whose closed-form students (kernel ridge regression) rank real pairs best.

Differences from the paper:
- The papers classify images. Here a student maps images and texts onto the synthetic pairs, and the outer loss is
  InfoNCE on minibatches of real pairs.
- The penalties of both sides and the temperature are learned with the pairs.
- The kernel is linear in features, standardised by the mean and deviation of the real ones.
"""

from raydd.distill.methods.method import Method

METHOD = Method(
    paper="none on image-caption pairs; on classes CLP-DD, 2026, arXiv:2605.07194, and KIP (Nguyen et al., ICLR 2021, "
    "arXiv:2011.00050)",
    settings={
        "distill.objective": "ridge",
        "distill.blend": "none",
        "distill.similarity": "identity",
        "distill.loss": "infonce",
    },
    space="ridge",
)
