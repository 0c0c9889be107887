"""The methods with the settings found for fewer pairs and minibatches of 100 pairs: rows of tuned_499_val.yaml."""

from raydd.distill.methods import Method, find_method


def _in_minibatches(name: str) -> Method:
    method = find_method(f"docs/comparison/tuned_199.py:{name}")
    return Method(paper=method.paper, settings={**method.settings, "distill.minibatch": 100})


MTT_VL, REPBLEND, LORS, TESLA_VL = map(_in_minibatches, ("MTT_VL", "REPBLEND", "LORS_AS_99", "TESLA_VL"))
TESLA_VL_AS_99 = Method(  # found for 99 pairs
    paper="TESLA-VL",
    settings={
        **find_method("tesla-vl").settings,
        "experts.lr": 0.2,
        "distill.student_steps": 9,
        "distill.minibatch": 20,
        "distill.minibatch_order": "permutations",
        "distill.target_epochs": 1,
        "distill.image_lr": 0.14410243728108676,
        "distill.text_lr": 0.04158067682573024,
        "distill.rate_lr": 0.019891153185742565,
        "distill.start_rate": 0.6594484899898826,
        "students.weight_decay": 0.0005000000000000001,
    },
)
