"""One distillation from pairs to scores: what `raydd run` does."""

from typing import Any

from raydd.code_version import code_version
from raydd.protocols import Workbench
from raydd.sets.provenance import selection_rule
from raydd.settings import flatten
from raydd.stages.distilling import synthetic_record
from raydd.stages.evaluating import scores_of


def run(work: Workbench[Any]) -> dict[str, Any]:
    """Make a synthetic set and score it beside its baselines.

    Returns:
        `synthetic` and each of `evaluate.baselines` with every metric's mean, standard deviation and seeds in percent;
        and under `made` what made them: data, encoders, settings, selection rule, code, and the synthetic set's record.
    """
    config = work.config
    rows = {name: scores_of(work, name).as_json() for name in ("synthetic", *config.evaluate.baselines)}
    data = work.data
    return {
        **rows,
        "made": {
            "data": {"name": data.name, "fingerprint": data.fingerprint, "notes": list(data.notes)},
            "encoders": {"image": config.encoders.image, "text": config.encoders.text},
            "protocol": work.trains,
            "split": config.evaluate.split,
            "selection": selection_rule(config),
            "synthetic_record": synthetic_record(work).folder,
            "store": work.store.root,
            "raydd": code_version(),
            "settings": {name: value for name, value in flatten(config).items() if not name.startswith("place.")},
        },
    }
