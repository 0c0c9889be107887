"""A method of your own: RepBlend's blending with MTT-VL's loss, and a similarity matrix with every entry learned."""

from raydd.distill.methods import Method

METHOD = Method(
    paper="ours, unpublished",
    settings={
        "distill.blend": "fixed",
        "distill.blend_ratio": 0.1,
        "distill.similarity": "full",
        "distill.loss": "infonce",
    },
)
