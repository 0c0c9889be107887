"""Ideas for scoring above RepBlend that settings can express, as methods: rows of docs/comparison/ideas.yaml."""

from raydd.distill.methods import Method

_PLAIN = {"distill.blend": "none", "distill.similarity": "identity", "distill.minibatch": 50}

PLAIN = Method(paper="no blending, no learned similarity", settings=_PLAIN)
LONG_WALKS = Method(paper="plain, 16 student steps", settings={**_PLAIN, "distill.student_steps": 16})
FREE = Method(paper="plain, features may leave the range of real ones", settings={**_PLAIN, "distill.range_pull": 0})
HERDED = Method(paper="plain, start pairs selected by herding", settings={**_PLAIN, "distill.start": "herding"})
STARTS = Method(paper="plain, three start epochs", settings={**_PLAIN, "distill.max_start_epoch": 3})
FAR = Method(paper="plain, five target epochs", settings={**_PLAIN, "distill.target_epochs": 5})
REAL_IMAGES = Method(
    paper="only texts and similarity matrix learned, real photographs",
    settings={"distill.blend": "none", "distill.similarity": "low-rank", "distill.image_lr": 0},
)
REAL_TEXTS = Method(paper="plain, only images learned, real captions", settings={**_PLAIN, "distill.text_lr": 0})
