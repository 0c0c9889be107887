"""The matching methods at their published settings, those that hold whatever is learned: rows of published.yaml."""

from raydd.distill.methods import Method, find_method


def _published(name: str) -> Method:
    method = find_method(name)
    return Method(paper=method.paper, settings={**method.settings, **method.published}, protocol=method.protocol)


MTT_VL, TESLA_VL, LORS, REPBLEND = map(_published, ("mtt-vl", "tesla-vl", "lors", "repblend"))
