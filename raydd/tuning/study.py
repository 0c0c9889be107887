"""The study: an Optuna study in a database, the only truth about a sweep's trials.

Nothing else needs to survive: a trial's work is in the store, and Ray Tune's own state is never read back. A driver
that was killed leaves RUNNING trials behind; the next one marks them and asks for the same settings again.
"""

import secrets
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
import tenacity
from optuna.exceptions import ExperimentalWarning
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import DatabaseError

from raydd.cluster.trial_report import TrialReport
from raydd.config import Config
from raydd.data.encoders import image_identity, text_identity
from raydd.errors import ConfigError, nearest
from raydd.outside import source_identity
from raydd.secrets_hidden import hidden, hide_password
from raydd.settings import flatten
from search_spaces import Space

DIRECTIONS: dict[str, Literal["maximize", "minimize"]] = {
    "r_mean": "maximize",
    "seconds": "minimize",
    "bytes": "minimize",
}
INTERRUPTED = "interrupted"
SETTINGS, REPORT = "settings", "report"  # user attributes that the searcher writes
STARTUP_TRIALS = 8  # drawn at random (published ones count) before the sampler trusts what it has seen

_OVER = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
_BASE, _ID, _AGAIN, _REASON, _SOURCES = "base", "id", "again", "reason", "sources"
# What the finals alone read, and where things are computed: both may change from one command to the next.
_FREE_SECTIONS = ("place.", "pixels.", "evaluate.", "sweep.", "compare.")
_FIXED = ("sweep.space", "sweep.objectives")


def open_study(config: Config, space: Space, address: str) -> optuna.Study:
    """Open the sweep's study, making it with the space's published settings as first trials if it is new.

    Args:
        config: what all trials share; `sweep.name` names the study.
        space: gives the first trials.
        address: the database, as SQLAlchemy writes it.

    Raises:
        ConfigError: the database cannot be opened, or a sweep of this name was started with other settings.
    """
    study = optuna.create_study(
        storage=_storage(address),
        study_name=config.sweep.name,
        directions=[DIRECTIONS[name] for name in config.sweep.objectives],
        load_if_exists=True,
    )
    if _BASE in study.user_attrs:
        _require_same(study, config)
        return study
    for settings in space.first:
        study.enqueue_trial(dict(settings), skip_if_exists=True)
    study.set_user_attr(_ID, secrets.token_hex(4))
    study.set_user_attr(_BASE, _base(config))  # last, so that a driver killed before it starts over
    return study


def find_study(config: Config, address: str) -> optuna.Study | None:
    """The sweep's study if it was started already; nothing is written.

    Raises:
        ConfigError: as `open_study`.
    """
    try:
        study = optuna.load_study(study_name=config.sweep.name, storage=_storage(address))
    except KeyError:
        return None
    _require_same(study, config)
    return study


def load_study(name: str, address: str) -> optuna.Study:
    """A sweep's study by its name, to look at.

    Raises:
        ConfigError: there is none of that name; it says which there are.
    """
    storage = _storage(address)
    try:
        return optuna.load_study(study_name=name, storage=storage)
    except KeyError as error:
        known = optuna.get_all_study_names(storage)
        raise ConfigError(
            f"There is no sweep {name!r} in {hide_password(address)}. "
            f"{nearest(name, known) if known else 'There is none at all.'} Set sweep.name or place.study."
        ) from error


def require_same_sources(study: optuna.Study, sources: Mapping[str, str], *, remember: bool) -> None:
    """Refuse to go on with a sweep whose data, encoders or code are others than when it was started.

    Args:
        study: the sweep's.
        sources: what each of them is now, as `sources_of` gives it.
        remember: keep them in a study that has none yet.

    Raises:
        ConfigError: naming what changed, and the two ways out.
    """
    known = study.user_attrs.get(_SOURCES)
    if known is None:
        if remember:
            study.set_user_attr(_SOURCES, dict(sources))
        return
    changed = [name for name in sorted({*known, *sources}) if known.get(name, "") != sources.get(name, "")]
    if changed:
        first = changed[0]
        raise ConfigError(
            f"The sweep {study.study_name!r} was started with another {' and another '.join(changed)} "
            f"({first} {known.get(first, 'none')}, now {sources.get(first, 'none')}): their trials cannot be compared. "
            "Put back what it was started with, or give this sweep another sweep.name."
        )


def sources_of(config: Config, data_fingerprint: str) -> dict[str, str]:
    """What the trials of a sweep depend on beside its settings, by name: content of data, encoders and own code."""
    code = {
        "search space": config.sweep.space,
        "method": config.distill.method,
        "loss": config.distill.loss,
        "experts' loss": config.experts.loss,
    }
    return {
        "data set": data_fingerprint,
        "image encoder": image_identity(config.encoders),
        "text encoder": text_identity(config.encoders),
        **{name: found for name, value in code.items() if (found := source_identity(value))},
    }


def shared_settings(study: optuna.Study) -> dict[str, Any]:
    """The settings that all trials share and that decide their results, as the sweep was started with them."""
    return dict(study.user_attrs.get(_BASE, {}))


def study_id(study: optuna.Study) -> str:
    """The study's name, and what tells it from one of the same name in another database."""
    return f"{study.study_name}-{study.user_attrs[_ID]}"


def requeue_interrupted(study: optuna.Study) -> int:
    """Mark trials that a dead driver left RUNNING as failed by interruption, ask for their settings again; how many."""
    orphans = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    for orphan in orphans:
        ask_again(study, optuna.trial.Trial(study, orphan._trial_id))
    return len(orphans)


def ask_again(study: optuna.Study, trial: optuna.Trial) -> None:
    """End a running trial as failed by interruption, and queue its settings, to be run again under its number."""
    fail(study, trial, INTERRUPTED)
    if trial.params:
        study.enqueue_trial(trial.params, user_attrs={_AGAIN: identity(trial)})


def identity(trial: FrozenTrial | optuna.Trial) -> int:
    """The number under which these settings were first tried: an interrupted trial keeps it when it is run again."""
    return trial.user_attrs.get(_AGAIN, trial.number)


def settings(trial: FrozenTrial) -> dict[str, Any]:
    """The dotted settings of a trial, those included that the space set without searching them."""
    return trial.user_attrs[SETTINGS]


def interrupted(trial: FrozenTrial) -> bool:
    """Whether a trial only failed because its driver was killed, the store was away, or the disk was full."""
    return reason(trial) == INTERRUPTED


def reason(trial: FrozenTrial) -> str:
    """Why a trial failed; empty if it did not."""
    return trial.user_attrs.get(_REASON, "")


def fail(study: optuna.Study, trial: optuna.Trial, why: str) -> None:
    """End a running trial as FAIL, with its reason."""
    trial.set_user_attr(_REASON, why)
    study.tell(trial, state=TrialState.FAIL)


def report(trial: FrozenTrial) -> TrialReport:
    """The last report of a trial that is over, with its whole curve; an empty one if it gave none."""
    return TrialReport.of(trial.user_attrs.get(REPORT))


def last_score(trial: FrozenTrial) -> float:
    """Val r_mean of a stopped trial when it was stopped."""
    return report(trial).r_mean


def counts(study: optuna.Study) -> Counter[str]:
    """How many trials are over, by state: complete, pruned, or fail for a reason of their own."""
    return Counter(trial.state.name.lower() for trial in over(study))


def finished(study: optuna.Study) -> int:
    """Trials that count towards `sweep.trials`."""
    return counts(study).total()


def over(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that are over: complete, pruned, or failed for a reason of their own."""
    return [trial for trial in study.get_trials(deepcopy=False, states=_OVER) if not interrupted(trial)]


def ranked(study: optuna.Study, objectives: Sequence[str]) -> list[FrozenTrial]:
    """Complete trials, the best val r_mean first; of equal ones the earlier."""
    place = list(objectives).index("r_mean")
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return sorted(complete, key=lambda trial: (-trial.values[place], trial.number))


def pareto_front(study: optuna.Study) -> list[FrozenTrial]:
    """Complete trials that no other one beats in every objective."""
    return sorted(study.best_trials, key=lambda trial: trial.values[0])


def renew_sampler(study: optuna.Study, seed: int) -> None:
    """Give the study the sampler of its next trial, whose draws depend on the seed and on that trial's place alone.

    A sampler that lived on would start its random sequence over when a driver is replaced, and draw the same settings
    twice.
    """
    asked = sum(not interrupted(trial) for trial in study.get_trials(deepcopy=False))
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", ExperimentalWarning
        )  # group: what lets conditional settings be modelled jointly
        study.sampler = optuna.samplers.TPESampler(
            seed=int(np.random.SeedSequence([seed, asked]).generate_state(1)[0]),
            n_startup_trials=STARTUP_TRIALS,
            multivariate=True,
            group=True,
            constant_liar=True,
        )


# Processes that make the tables of a new database at once break each other's making, not the tables.
_patiently = tenacity.Retrying(
    retry=tenacity.retry_if_exception_type(DatabaseError),
    wait=tenacity.wait_random(0.2, 1.0),
    stop=tenacity.stop_after_attempt(4),
    reraise=True,
)


def _storage(address: str) -> optuna.storages.RDBStorage:
    # Seconds to wait while another sweep writes; or a connection that the server closed meanwhile is replaced.
    options = {"connect_args": {"timeout": 60}} if address.startswith("sqlite") else {"pool_pre_ping": True}
    try:
        if address.startswith("sqlite:///"):
            Path(address.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        return _patiently(lambda: optuna.storages.RDBStorage(address, engine_kwargs=options))
    except Exception as error:  # SQLAlchemy and each driver have their own error types, and an address can name any
        raise ConfigError(
            f"The study's database {hide_password(address)} cannot be opened "
            f"({type(error).__name__}: {' '.join(hidden(str(error)).split())}). "
            "Check place.study or $RAYDD_STUDY."
        ) from error


def _base(config: Config) -> dict[str, Any]:
    settings = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in flatten(config).items()
        if name in _FIXED or not name.startswith(_FREE_SECTIONS)
    }
    del settings["distill.space"]  # trials run on features whatever it says
    return settings


def _require_same(study: optuna.Study, config: Config) -> None:
    known, asked = study.user_attrs.get(_BASE, {}), _base(config)
    for setting in sorted(known):
        before, now = known[setting], asked.get(setting)
        if before != now:
            raise ConfigError(
                f"The sweep {study.study_name!r} was started with {setting} {before!r}, and this command says {now!r}: "
                "their trials cannot be compared. Set it back, or give this sweep another sweep.name."
            )
