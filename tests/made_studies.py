"""Studies of any size, made by Optuna itself from a search space of raydd and a score with known effects."""

import math

import optuna

from raydd.settings import load
from raydd.tuning import study as studies
from search_spaces import load_space

OBJECTIVES = ("r_mean", "seconds", "bytes")


def searched(trials: int, objectives: tuple[str, ...] = OBJECTIVES, sampler=None, storage=None) -> optuna.Study:
    """A study of the space `matching`; the image rate matters most, every fourth weak trial is stopped, some fail."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = load_space("matching")
    study = optuna.create_study(
        directions=[studies.DIRECTIONS[name] for name in objectives],
        storage=storage,
        sampler=sampler or optuna.samplers.RandomSampler(seed=0),
    )
    study.set_user_attr("base", {"sweep.objectives": list(objectives), "distill.pairs": load().distill.pairs})
    study.set_user_attr("id", "0123abcd")
    for number in range(trials):
        trial = study.ask()
        settings = space.settings(trial)
        trial.set_user_attr(studies.SETTINGS, settings)
        values = score(settings)
        if number % 50 == 49:
            studies.fail(study, trial, "NonFiniteError: the matching loss diverged")
        elif number % 4 == 3 and values["r_mean"] < 40:
            trial.set_user_attr(studies.REPORT, {"r_mean": values["r_mean"] - 5})
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            trial.set_user_attr(studies.REPORT, {"record": f"synthetic/{number:016x}"})
            study.tell(trial, [values[name] for name in objectives])
    return study


def score(settings: dict) -> dict[str, float]:
    rate, steps = settings["distill.image_lr"], settings["distill.student_steps"]
    r_mean = 48 - 6 * math.log10(rate / 0.2) ** 2 - (8 if settings["distill.loss"] == "wbce" else 0)
    r_mean -= 0.1 * abs(steps - 8)
    return {"r_mean": r_mean, "seconds": 10.0 * steps, "bytes": 6e5 + 1e3 * settings.get("distill.rank", 0)}
