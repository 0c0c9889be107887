"""LGM: match the gradient that real pairs give at fresh random heads.

Differences from the paper:
- The paper classifies images with a random linear layer. Here the gradient is that of both projection heads under
  InfoNCE, with one cosine for each head.
- Features are learned, or pixels directly; the paper learns pixels as a pyramid, with augmentations.
- Adam takes a few hundred steps on features; the paper takes 5,000 steps on pixels.
"""

from raydd.distill.methods.method import Method

METHOD = Method(
    paper="none on image-caption pairs; on classes Cazenavette et al., Linear Gradient Matching, NeurIPS 2025, "
    "arXiv:2511.16674",
    settings={
        "distill.objective": "gradient",
        "distill.blend": "none",
        "distill.similarity": "identity",
        "distill.loss": "infonce",
    },
    space="lgm",
)
