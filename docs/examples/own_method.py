"""A method of one's own: RepBlend's blending on MTT-VL's loss, with every entry of the similarity free."""

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
