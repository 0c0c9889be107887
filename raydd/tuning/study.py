"""The study: an Optuna study in a database, the only truth about a sweep's trials.

Nothing else needs to survive: a trial's work is in the store, and Ray Tune's own state is never read back. A driver
that was killed leaves RUNNING trials behind; the next one marks them and asks for the same settings again.
"""

import re
import secrets
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import optuna
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
LATEST = "latest"  # stands for a sweep's name where a command only looks
SETTINGS, REPORT = "settings", "report"  # user attributes that the searcher writes
HELD = "held"  # another: seconds for which a trial held its place, with all that it made beside its steps
PRICE = "price"  # another: seconds that a trial was said to take to its end, without the experts that it makes

OUTCOMES = ("complete", "pruned", "diverged", "fail")
_OVER = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
_NOT_FINITE = re.compile(r" is (nan|-?inf) at step ")  # as the searcher says it
_BASE, _ID, _AGAIN, _REASON, _SOURCES = "base", "id", "again", "reason", "sources"
# What the finals alone read, and where things are computed: both may change from one command to the next.
_FREE_SECTIONS = ("place.", "pixels.", "evaluate.", "sweep.", "compare.")
_FIXED = ("sweep.space", "sweep.objectives")


def open_study(
    config: Config,
    space: Space,
    address: str,
    alone: Callable[[optuna.Study], AbstractContextManager[None]] = nullcontext,
) -> optuna.Study:
    """Open the sweep's study, making it with the space's first settings as first trials if it is new.

    Args:
        config: what all trials share; `sweep.name` names the study.
        space: gives the first trials.
        address: the database, as SQLAlchemy writes it.
        alone: keeps other processes from beginning the same study inside the block, see `raydd.tuning.lease.driving`.

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
        with alone(study):
            _begin(study, config, space)
    _require_same(study, config)
    return study


def _begin(study: optuna.Study, config: Config, space: Space) -> None:
    """Queue the first trials of a new study, unless another process did meanwhile."""
    if _BASE in study.user_attrs:
        return
    for settings in space.first if config.sweep.first else ():
        study.enqueue_trial(dict(settings), skip_if_exists=True)
    study.set_user_attr(_ID, secrets.token_hex(4))
    study.set_user_attr(_BASE, _base(config))  # last, so that a driver killed before it starts over


def find_study(config: Config, address: str) -> optuna.Study | None:
    """The sweep's study if it was started already; nothing is written.

    Raises:
        ConfigError: as `open_study`.
    """
    try:
        study = optuna.load_study(study_name=config.sweep.name, storage=open_storage(address))
    except KeyError:
        return None
    _require_same(study, config)
    return study


def load_study(name: str, address: str) -> optuna.Study:
    """A sweep's study by its name, to look at.

    Raises:
        ConfigError: there is none of that name; it says which there are.
    """
    storage = open_storage(address)
    try:
        return optuna.load_study(study_name=name, storage=storage)
    except KeyError as error:
        known = optuna.get_all_study_names(storage)
        raise ConfigError(
            f"There is no sweep {name!r} in {hide_password(address)}. "
            f"{nearest(name, known) if known else 'There is none at all.'} Set sweep.name or place.study."
        ) from error


def sweep_named(name: str, address: str) -> str:
    """The name itself, or that of the sweep whose trials began last if the name is `LATEST` and no sweep's.

    Raises:
        ConfigError: the database cannot be opened, or holds no sweep.
    """
    storage = open_storage(address)
    if name != LATEST or LATEST in (known := optuna.get_all_study_names(storage)):
        return name
    if not known:
        raise ConfigError(f"There is no sweep in {hide_password(address)}. `raydd sweep` starts one.")
    return max(known, key=lambda name: (_last_start(optuna.load_study(study_name=name, storage=storage)), name))


def _last_start(study: optuna.Study) -> float:
    began = [trial.datetime_start for trial in study.get_trials(deepcopy=False) if trial.datetime_start]
    return max(began).timestamp() if began else 0.0


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
        fail(study, optuna.trial.Trial(study, orphan._trial_id), INTERRUPTED)
    for trial in latest(study):
        if interrupted(trial):  # also one whose driver was killed before it could queue the settings
            _queue_again(study, trial)
    return len(orphans)


def ask_again(study: optuna.Study, trial: optuna.Trial) -> None:
    """End a running trial as failed by interruption, and queue its settings, to be run again under its number."""
    fail(study, trial, INTERRUPTED)
    _queue_again(study, study._storage.get_trial(trial._trial_id))


def _queue_again(study: optuna.Study, asked: FrozenTrial) -> None:
    # Killed before its last setting was drawn, it is drawn anew, by the same place and so the same seed. A part of its
    # settings would shift the draws of the others.
    given = asked.params if SETTINGS in asked.user_attrs else asked.system_attrs.get("fixed_params", {})
    if given:
        study.enqueue_trial(given, user_attrs={_AGAIN: identity(asked)})


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


def cpu_seconds(study: optuna.Study) -> dict[str, float]:
    """CPU seconds of the trials' processes, by part of the work (`raydd.cpu_time`), the largest first.

    Each process says its own so far with every report; what came after its last one is not known.
    """
    reports = [report(trial) for trial in over(study)]
    ascending = sorted(
        (one for one in reports if one.process), key=lambda one: sum(seconds for _, seconds in one.cpu_seconds)
    )
    parts: defaultdict[str, float] = defaultdict(float)
    for last in {one.process: one for one in ascending}.values():
        for part, seconds in last.cpu_seconds:
            parts[part] += seconds
    return dict(sorted(parts.items(), key=lambda item: -item[1]))


def last_score(trial: FrozenTrial) -> float:
    """Val r_mean of a stopped trial when it was stopped."""
    return report(trial).r_mean


def outcome(state: TrialState, why: str) -> str:
    """A trial's end in a word: complete, pruned, diverged, or fail for any other reason."""
    return "diverged" if state == TrialState.FAIL and diverged(why) else state.name.lower()


def diverged(why: str) -> bool:
    """Whether a trial failed by NaN or infinity, which its settings have to answer for and no machine."""
    return why.startswith(f"{NonFiniteError.__name__}:") or bool(_NOT_FINITE.search(why))


def counts(study: optuna.Study) -> Counter[str]:
    """How many trials are over, by `outcome`."""
    return Counter(outcome(trial.state, reason(trial)) for trial in over(study))


def counted(outcomes: Mapping[str, int]) -> int:
    """Trials that count towards `sweep.trials`: all but the failed ones, which tell nothing of their settings."""
    return sum(count for word, count in outcomes.items() if word != "fail")


def finished(study: optuna.Study) -> int:
    """Trials that count towards `sweep.trials`."""
    return counted(counts(study))


def latest(study: optuna.Study) -> list[FrozenTrial]:
    """The trials in the order of their numbers, of those that were run again under one number the last."""
    return list({identity(trial): trial for trial in study.get_trials(deepcopy=False)}.values())


def over(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that are over: complete, pruned, or failed for a reason of their own."""
    return [trial for trial in latest(study) if trial.state in _OVER and not interrupted(trial)]


def retry_failed(study: optuna.Study) -> int:
    """Queue the settings of failed trials, to be run again under their numbers; how many. Diverged ones would again."""
    failed = [trial for trial in over(study) if outcome(trial.state, reason(trial)) == "fail" and trial.params]
    for trial in failed:
        study.enqueue_trial(trial.params, user_attrs={_AGAIN: identity(trial)})
    return len(failed)


def ranked(study: optuna.Study, objectives: Sequence[str]) -> list[FrozenTrial]:
    """Complete trials, the best val r_mean first; of equal ones the earlier, by the number first tried under."""
    place = list(objectives).index("r_mean")
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return sorted(complete, key=lambda trial: (-trial.values[place], identity(trial)))


def pareto_front(study: optuna.Study) -> list[FrozenTrial]:
    """Complete trials that no other one beats in every objective."""
    return sorted(study.best_trials, key=lambda trial: trial.values[0])


def _base(config: Config) -> dict[str, Any]:
    settings = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in flatten(config).items()
        if name in _FIXED or not name.startswith(_FREE_SECTIONS)
    }
    del settings["distill.images"]  # trials run on features whatever it says
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
