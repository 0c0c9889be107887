"""One distillation from pairs to scores: what `raydd run` does."""

from typing import Any

from raydd.code_version import code_version
from raydd.config import Config
from raydd.progress import Progress, silent
from raydd.sets.provenance import selection_rule
from raydd.settings import flatten
from raydd.stages.distilling import synthetic_record
from raydd.stages.evaluating import full_scores, selected_scores, synthetic_scores
from raydd.stages.features import pairs
from raydd.store import Store

PROTOCOLS = {
    "heads": "both encoders frozen, both heads trained",
    "encoder": "text encoder frozen, image encoder and text head trained from pixels",
}


def run(config: Config, store: Store, progress: Progress = silent) -> dict[str, Any]:
    """Make a synthetic set and score it beside its baselines.

    Returns:
        `synthetic` and each of `evaluate.baselines` with every metric's mean, standard deviation and seeds in percent;
        and under `made` what made them: data, encoders, settings, selection rule, code, and the synthetic set's record.
    """
    rows = {"synthetic": synthetic_scores(config, store, progress).as_json()}
    for name in config.evaluate.baselines:
        scores = (
            full_scores(config, store, progress) if name == "full" else selected_scores(config, store, name, progress)
        )
        rows[name] = scores.as_json()
    data, record = pairs(config, store), synthetic_record(config, store)
    return {
        **rows,
        "made": {
            "data": {"name": data.name, "fingerprint": data.fingerprint, "notes": list(data.notes)},
            "encoders": {"image": config.encoders.image, "text": config.encoders.text},
            "protocol": PROTOCOLS[config.distill.protocol],
            "split": config.evaluate.split,
            "selection": selection_rule(config),
            "synthetic_record": record.folder,
            "store": store.root,
            "raydd": code_version(),
            "settings": {name: value for name, value in flatten(config).items() if not name.startswith("place.")},
        },
    }
