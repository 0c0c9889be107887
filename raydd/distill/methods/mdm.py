"""MDM: match the distributions of sums and differences of embeddings, as a teacher sees real and synthetic pairs.

Differences from the paper:
- Encoders are frozen. A teacher is one expert's two heads, with weights half way between their start and one of their
  first epochs; the paper merges two models that were fine-tuned from the same pretrained one, which raydd's experts are
  not.
- The kernel is Gaussian in the distance of embeddings, as in the published code; the paper writes geodesic distances.
- It starts from random pairs; the paper from pairs drawn from clusters.
- Adam takes a few hundred steps on features; the paper takes up to 3,000 of SGD with clipped gradients.
"""

from raydd.distill.methods.method import Method

METHOD = Method(
    paper="Jeong et al., Multimodal Distribution Matching, CVPR 2026, arXiv:2605.23482",
    settings={
        "distill.objective": "distribution",
        "distill.blend": "none",
        "distill.similarity": "identity",
        "distill.loss": "infonce",
    },
    published={"distill.target_epochs": 10, "distill.real_minibatch": 256},
    space="mdm",
)
