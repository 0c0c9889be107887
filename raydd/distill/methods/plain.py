"""Plain matching: MTT-VL's loss and similarity matrix, with raydd's own settings; the default method.

Differences from the paper:
- Both heads are matched, on frozen encoders.
- The settings are raydd's defaults, most of which a search found on Flickr8k: few student steps on small minibatches,
  experts with a high learning rate, image features minus their mean, and ten times the published weight decay for the
  scored students.
- Minibatches are cut from permutations of all pairs; MTT-VL's code draws each one independently.
- Pairs are learned by Adam as features, and then as pixels with these features; the paper's code learns pixels by SGD.
"""

from raydd.distill.methods.method import Method

METHOD = Method(
    paper="raydd, after Wu et al., Vision-Language Dataset Distillation, TMLR 2024, arXiv:2308.07545",
    settings={
        "distill.blend": "none",
        "distill.similarity": "identity",
        "distill.loss": "infonce",
        "distill.gradient": "exact",
        "distill.matched": "both-heads",
    },
)
