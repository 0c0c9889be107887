"""The study of a sweep: an Optuna study in a database, the only source of truth about the sweep's trials.

Nothing else needs to survive a crash: a trial's work is in the store, and Ray Tune's own state is never read back. A
driver that is killed leaves RUNNING trials behind. The next driver marks these trials as interrupted and queues their
settings again.
"""

import re
import secrets
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from raydd.cluster.trial_report import TrialReport
from raydd.config import Config
from raydd.data.encoders import image_identity, text_identity
from raydd.errors import ConfigError, NonFiniteError, nearest
from raydd.outside import source_identity
from raydd.secrets_hidden import hide_password
from raydd.settings import flatten
from raydd.tuning.database import open_storage
from search_spaces import Space

DIRECTIONS: dict[str, Literal["maximize", "minimize"]] = {
    "r_mean": "maximize",
    "seconds": "minimize",
    "bytes": "minimize",
}
INTERRUPTED = "interrupted"
LATEST = "latest"  # stands for the name of the latest sweep, in commands that only read
SETTINGS, REPORT = "settings", "report"  # user attributes that the searcher writes
BEGAN = "began"  # user attribute: when a trial began to hold its slot, in seconds since the epoch
SLOT = "slot"  # user attribute: id of the slot that a trial shares with others, or shared last
HELD = "held"  # user attribute: seconds for which a trial held its slot, including training experts and scoring
LOST = "lost"  # user attribute: why the process or the machine of a trial was lost
LOSSES = "losses"  # user attribute: how often; missing means once
PRICE = "price"  # user attribute: predicted seconds of a complete trial, without the experts that it trains

OUTCOMES = ("complete", "pruned", "diverged", "fail")
_ENDED_STATES = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
_NOT_FINITE = re.compile(r" is (nan|-?inf) at step ")  # part of the searcher's message
_BASE, _ID, _AGAIN, _REASON, _SOURCES = "base", "id", "again", "reason", "sources"
# Settings that only finals read, or that say where work is computed. They may change from one command to the next.
_FREE_SECTIONS = ("place.", "pixels.", "evaluate.", "sweep.", "compare.")
_FIXED = ("sweep.space", "sweep.objectives")
_BY_FLAGS = "settings fixed by flags"  # instead of being searched; compared as the settings are


def open_study(
    config: Config,
    space: Space,
    address: str,
    exclusive: Callable[[optuna.Study], AbstractContextManager[None]] = nullcontext,
    before_first: Callable[[], Sequence[Mapping[str, Any]]] = tuple,
) -> optuna.Study:
    """Open the sweep's study. If it is new, create it and queue the space's first settings as first trials.

    Args:
        config: the settings that all trials share; `sweep.name` names the study.
        space: the search space, which gives the first trials.
        address: address of the database, in SQLAlchemy's format.
        exclusive: inside its block, no other process can begin the same study; see `raydd.tuning.lease.driving`.
        before_first: returns settings that are queued before the space's; called only for a new study.

    Raises:
        ConfigError: the database cannot be opened, or a sweep of this name was started with other settings.
    """
    study = optuna.create_study(
        storage=open_storage(address),
        study_name=config.sweep.name,
        directions=[DIRECTIONS[name] for name in config.sweep.objectives],
        load_if_exists=True,
    )
    if _BASE not in study.user_attrs:
        with exclusive(study):
            _queue_first_trials(study, config, space, before_first())
    _require_same_settings(study, config, space)
    return study


def _queue_first_trials(
    study: optuna.Study, config: Config, space: Space, before_first: Sequence[Mapping[str, Any]]
) -> None:
    """Queue the first trials of a new study, unless another process has done so in the meantime."""
    if _BASE in study.user_attrs:
        return
    for settings in (*before_first, *(space.first if config.sweep.first else ())):
        study.enqueue_trial(dict(settings), skip_if_exists=True)
    study.set_user_attr(_ID, secrets.token_hex(4))
    # Last: if this process is killed before, the next one begins again.
    study.set_user_attr(_BASE, _comparable_settings(config, space))


def find_study(config: Config, space: Space, address: str) -> optuna.Study | None:
    """Return the sweep's study, or None if it was never started. Writes nothing to it.

    Raises:
        ConfigError: for the reasons of `open_study`.
    """
    try:
        study = optuna.load_study(study_name=config.sweep.name, storage=open_storage(address))
    except KeyError:
        return None
    _require_same_settings(study, config, space)
    return study


def load_study(name: str, address: str) -> optuna.Study:
    """Return the study of the sweep with this name, for reading.

    Raises:
        ConfigError: there is no sweep of that name; the message names similar ones.
    """
    storage = open_storage(address)
    if name not in (names := _sweep_names(storage)):
        raise ConfigError(
            f"There is no sweep {name!r} in {hide_password(address)}. "
            f"{nearest(name, names) if names else 'It has no sweeps.'} Set sweep.name or place.study."
        )
    return optuna.load_study(study_name=name, storage=storage)


def sweep_named(name: str, address: str) -> str:
    """Return the name itself, or for `LATEST` the name of the sweep whose trials began last.

    If a sweep is itself named `LATEST`, its name is returned.

    Raises:
        ConfigError: the database cannot be opened, or holds no sweep.
    """
    storage = open_storage(address)
    if name != LATEST or LATEST in (names := _sweep_names(storage)):
        return name
    if not names:
        raise ConfigError(f"There is no sweep in {hide_password(address)}. `raydd sweep` starts one.")
    return max(names, key=lambda name: (_last_start(optuna.load_study(study_name=name, storage=storage)), name))


def _sweep_names(storage: BaseStorage) -> list[str]:
    """Return the names of the sweeps in a database, in which other programs may have studies of their own."""
    return [study.study_name for study in storage.get_all_studies() if _ID in study.user_attrs]


def _last_start(study: optuna.Study) -> float:
    start_times = [trial.datetime_start for trial in study.get_trials(deepcopy=False) if trial.datetime_start]
    return max(start_times).timestamp() if start_times else 0.0


def require_same_sources(study: optuna.Study, sources: Mapping[str, str], *, remember: bool) -> None:
    """Refuse to continue a sweep whose data, encoders or code have changed since it was started.

    Args:
        study: the sweep's study.
        sources: the present identities of data, encoders and code, from `sources_of`.
        remember: save the identities in the study if it has none yet.

    Raises:
        ConfigError: a source has changed; the message names it and the two ways to proceed.
    """
    saved = study.user_attrs.get(_SOURCES)
    if saved is None:
        if remember:
            study.set_user_attr(_SOURCES, dict(sources))
        return
    changed = [name for name in sorted({*saved, *sources}) if saved.get(name, "") != sources.get(name, "")]
    if changed:
        first = changed[0]
        raise ConfigError(
            f"The sweep {study.study_name!r} was started with another {' and another '.join(changed)} "
            f"({first} {saved.get(first, 'none')}, now {sources.get(first, 'none')}): their trials cannot be compared. "
            "Put back what it was started with, or give this sweep another sweep.name."
        )


def sources_of(config: Config, data_fingerprint: str) -> dict[str, str]:
    """Return what trials depend on in addition to the settings, by name: content of data, encoders and own code."""
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
        **{name: source_id for name, value in code.items() if (source_id := source_identity(value))},
    }


def shared_settings(study: optuna.Study) -> dict[str, Any]:
    """Return the settings that all trials share and that decide their results, as the sweep was started with them."""
    return dict(study.user_attrs.get(_BASE, {}))


def study_id(study: optuna.Study) -> str:
    """Return the study's name with a random part, since another database may have a study of the same name."""
    return f"{study.study_name}-{study.user_attrs[_ID]}"


def requeue_interrupted(study: optuna.Study) -> int:
    """Mark trials that a dead driver left RUNNING as interrupted, and queue their settings again.

    Returns:
        How many trials were left RUNNING.
    """
    orphans = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    for orphan in orphans:
        fail(study, optuna.trial.Trial(study, orphan._trial_id), INTERRUPTED)
    for trial in latest(study):
        if interrupted(trial):  # also trials whose driver was killed before it could queue their settings
            _queue_again(study, trial)
    return len(orphans)


def ask_again(study: optuna.Study, trial: optuna.Trial) -> None:
    """End a running trial as interrupted, and queue its settings, to be run again under the same number."""
    fail(study, trial, INTERRUPTED)
    _queue_again(study, study._storage.get_trial(trial._trial_id))


def _queue_again(study: optuna.Study, trial: FrozenTrial) -> None:
    # A trial that was killed before all its settings were drawn is drawn again, with the same place in the study and so
    # the same seed. Keeping the settings drawn so far would shift the draws of the others.
    params = trial.params if SETTINGS in trial.user_attrs else trial.system_attrs.get("fixed_params", {})
    if params:
        study.enqueue_trial(params, user_attrs={_AGAIN: identity(trial)})


def times_lost(study: optuna.Study, number: int) -> int:
    """Return how often the process or the machine of the trial with this number was lost, in all commands."""
    lost_trials = [trial for trial in study.get_trials(deepcopy=False) if LOST in trial.user_attrs]
    return sum(trial.user_attrs.get(LOSSES, 1) for trial in lost_trials if identity(trial) == number)


def identity(trial: FrozenTrial | optuna.Trial) -> int:
    """Return the number under which the trial's settings were first tried. A trial that is run again keeps it."""
    return trial.user_attrs.get(_AGAIN, trial.number)


def settings(trial: FrozenTrial) -> dict[str, Any]:
    """Return the dotted settings of a trial, including settings that the space set without searching them."""
    return trial.user_attrs[SETTINGS]


def interrupted(trial: FrozenTrial) -> bool:
    """Whether a trial failed only because its driver was killed, the store was unavailable, or the disk was full."""
    return reason(trial) == INTERRUPTED


def reason(trial: FrozenTrial) -> str:
    """Return why a trial failed; empty if it did not fail."""
    return trial.user_attrs.get(_REASON, "")


def fail(study: optuna.Study, trial: optuna.Trial, failure: str) -> None:
    """End a running trial as FAIL, with its reason."""
    trial.set_user_attr(_REASON, failure)
    study.tell(trial, state=TrialState.FAIL)


def report(trial: FrozenTrial) -> TrialReport:
    """Return the last report of a trial that has ended, with its whole curve; an empty report if it made none."""
    return TrialReport.of(trial.user_attrs.get(REPORT))


def cpu_seconds(study: optuna.Study) -> dict[str, float]:
    """Return the CPU seconds of the trials' processes by part of the work (`raydd.cpu_time`), the largest first.

    Each report has the CPU seconds of its process so far. The time after a process's last report is not known.
    """
    reports = [report(trial) for trial in ended(study)]
    ascending = sorted(
        (trial_report for trial_report in reports if trial_report.process),
        key=lambda trial_report: sum(seconds for _, seconds in trial_report.cpu_seconds),
    )
    parts: defaultdict[str, float] = defaultdict(float)
    for last_report in {trial_report.process: trial_report for trial_report in ascending}.values():
        for part, seconds in last_report.cpu_seconds:
            parts[part] += seconds
    return dict(sorted(parts.items(), key=lambda item: -item[1]))


def last_score(trial: FrozenTrial) -> float:
    """Return the val r_mean of a stopped trial at the time when it was stopped."""
    return report(trial).r_mean


def outcome(state: TrialState, failure: str) -> str:
    """Return how a trial ended, in a word: complete, pruned, diverged, or fail for any other reason."""
    return "diverged" if state == TrialState.FAIL and diverged(failure) else state.name.lower()


def diverged(failure: str) -> bool:
    """Whether a trial failed by NaN or infinity, which is caused by its settings and not by a machine."""
    return failure.startswith(f"{NonFiniteError.__name__}:") or bool(_NOT_FINITE.search(failure))


def counts(study: optuna.Study) -> Counter[str]:
    """Count the trials that have ended, by `outcome`."""
    return Counter(outcome(trial.state, reason(trial)) for trial in ended(study))


def counted(outcomes: Mapping[str, int]) -> int:
    """Count the trials that count towards `sweep.trials`: all but the failed ones, which say nothing about settings."""
    return sum(count for word, count in outcomes.items() if word != "fail")


def finished(study: optuna.Study) -> int:
    """Return how many trials of the study count towards `sweep.trials`."""
    return counted(counts(study))


def latest(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials by number. Of trials that were run again under the same number, only the last."""
    return list({identity(trial): trial for trial in study.get_trials(deepcopy=False)}.values())


def ended(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that have ended: complete, pruned, or failed for any reason but an interruption."""
    return [trial for trial in latest(study) if trial.state in _ENDED_STATES and not interrupted(trial)]


def retry_failed(study: optuna.Study) -> int:
    """Queue the settings of failed trials, to be run again under the same numbers.

    Diverged trials are left out, since they would diverge again.

    Returns:
        How many trials were queued.
    """
    failed = [trial for trial in ended(study) if outcome(trial.state, reason(trial)) == "fail" and trial.params]
    for trial in failed:
        study.enqueue_trial(trial.params, user_attrs={_AGAIN: identity(trial)})
    return len(failed)


def waiting(study: optuna.Study) -> list[FrozenTrial]:
    """Return the queued trials. They begin in this order, before any other trial is drawn."""
    return study.get_trials(deepcopy=False, states=(TrialState.WAITING,))


def waiting_again(study: optuna.Study) -> int:
    """Return how many trials wait that ran before: failed ones, and those of which the driver was killed."""
    return sum(_AGAIN in trial.user_attrs for trial in waiting(study))


def ranked(study: optuna.Study, objectives: Sequence[str]) -> list[FrozenTrial]:
    """Return the complete trials, the best val r_mean first. Of equal trials, the one first tried earlier is first."""
    r_mean_index = list(objectives).index("r_mean")
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return sorted(complete, key=lambda trial: (-trial.values[r_mean_index], identity(trial)))


def pareto_front(study: optuna.Study) -> list[FrozenTrial]:
    """Return the complete trials that no other trial beats in every objective."""
    return sorted(study.best_trials, key=lambda trial: trial.values[0])


def _comparable_settings(config: Config, space: Space) -> dict[str, Any]:
    settings: dict[str, Any] = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in flatten(config).items()
        if name in _FIXED or not name.startswith(_FREE_SECTIONS)
    }
    del settings["distill.images"]  # trials run on features regardless of this setting
    return {**settings, _BY_FLAGS: sorted(space.fixed)}


def _require_same_settings(study: optuna.Study, config: Config, space: Space) -> None:
    saved, current = study.user_attrs.get(_BASE, {}), _comparable_settings(config, space)
    for setting in sorted(saved):
        before, now = saved[setting], current.get(setting)
        if before != now:
            raise ConfigError(
                f"The sweep {study.study_name!r} was started with {setting} {before!r}, and this command says {now!r}: "
                "trials with different values cannot be compared. Set it back, or give this sweep another sweep.name."
            )
