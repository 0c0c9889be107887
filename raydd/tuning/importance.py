"""How much each searched setting decides, by one measure for MLflow and for the report."""

import warnings
from collections.abc import Sequence

import optuna

from raydd.tuning import study as studies


def importances(study: optuna.Study, objectives: Sequence[str]) -> dict[str, float]:
    """How much each setting decides whether a trial is among the best tenth (PED-ANOVA), the most important first.

    All zero where there are too few trials to tell, or nothing that varies.
    """
    place = list(objectives).index("r_mean")
    complete = studies.ranked(study, objectives)
    unknown = dict.fromkeys(complete[0].params if complete else (), 0.0)
    if len(complete) < studies.STARTUP_TRIALS:
        return unknown
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that low targets count as good, which the sign below heeds
        try:
            found = optuna.importance.get_param_importances(
                study,
                evaluator=optuna.importance.PedAnovaImportanceEvaluator(),
                target=lambda trial: -trial.values[place],
            )
        except (ValueError, RuntimeError):  # no setting is in every trial, or all scores are equal
            return unknown
    return dict(sorted(found.items(), key=lambda item: -item[1]))
