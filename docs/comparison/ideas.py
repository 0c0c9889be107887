"""Ways past RepBlend that settings can say, as methods of one's own: rows of docs/comparison/ideas.yaml."""

from raydd.distill.methods import Method

_PLAIN = {"distill.blend": "none", "distill.similarity": "identity"}

PLAIN = Method(paper="no blending, no learned similarity", settings=_PLAIN)
LONG_WALKS = Method(paper="plain, students of 16 steps", settings={**_PLAIN, "distill.student_steps": 16})
FREE = Method(paper="plain, features free of the range of real ones", settings={**_PLAIN, "distill.range_pull": 0})
HERDED = Method(paper="plain, from pairs that herding chose", settings={**_PLAIN, "distill.start": "herding"})
STARTS = Method(paper="plain, from the experts' first epochs too", settings={**_PLAIN, "distill.max_start_epoch": 3})
FAR = Method(paper="plain, targets five epochs on", settings={**_PLAIN, "distill.target_epochs": 5})
REAL_IMAGES = Method(
    paper="learned texts and similarity over the chosen photographs",
    settings={"distill.blend": "none", "distill.similarity": "low-rank", "distill.image_lr": 0},
)
REAL_TEXTS = Method(paper="plain, learned images beside real captions", settings={**_PLAIN, "distill.text_lr": 0})
