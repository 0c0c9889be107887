"""MDM: match the distributions of sums and differences of real and synthetic embeddings, as a teacher embeds them.

Differences from the paper:
- Encoders are frozen. A teacher consists of both heads of one expert, with weights half way between their start and one
  of their first epochs. The paper merges two models that were fine-tuned from the same pretrained model, which raydd's
  experts are not.
- The kernel is Gaussian in the distance of embeddings, as in the published code; the text of the paper has geodesic
  distances.
- Distillation starts from random pairs; in the paper it starts from pairs drawn from clusters.
- Adam takes a few hundred steps on features; the paper takes up to 3,000 steps of SGD with clipped gradients.
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
