"""The plan of a sweep: what the sweep will do and how long it may take, shown before it starts."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from rich.table import Table

from raydd.cluster.gpus import Cards, part_of_gpu
from raydd.config import Config
from raydd.cost.bytes import share_bytes, trials_together
from raydd.cost.seconds import pixel_seconds
from raydd.errors import ConfigError
from raydd.protocols import Workbench, cached, changed, open_workbench, trial_settings
from raydd.secrets_hidden import hide_password
from raydd.settings import with_settings
from raydd.stages.distilling import synthetic_record
from raydd.stages.population import AT_ONCE, group_of
from raydd.terminal.text import count_of, duration, duration_between
from raydd.tuning import study as studies
from raydd.tuning.expected import Expected, estimate_by_simulation, estimate_from_held, held_seconds
from raydd.tuning.prices import END, GPU_SPEED, Cost, Price, experts_until, first_stop, total
from raydd.tuning.results import candidates
from search_spaces import Space

_WIDE = 1.5  # if the longest expected time is more than this many times the shortest, the plan shows both
WORKERS_SECONDS = 30.0  # of training experts that justify starting Ray Train's workers, which takes ten seconds


@dataclass(frozen=True)
class Plan:
    """The plan of a sweep."""

    config: Config
    space: Space
    done: Counter[str]
    """Trials of earlier commands, by state."""
    at_once: int
    """Trials that run at once; 0: as many as fit on a cluster that may grow."""
    prepared: bool
    """Whether the store holds all data that trials read."""
    rungs: str
    """In words: the rungs, how trials are scored there, and whether weak ones are stopped."""
    records: tuple[tuple[str, str], ...]
    """Records that trials share: name, and how much of it the store has."""
    seconds: Expected
    """Expected time of the trials to run."""
    assumed: str
    """Assumption behind the expected time; empty if the time is measured."""
    final_seconds: float
    """Expected time of a finalist's pixels on one core; NaN if it is not known, 0 without finals."""
    finals_made: int
    """Finals whose synthetic sets the store has."""
    sharing: int = 1
    """How many trials that run at once take the expected time of one, since they share a slot; 1 if it is measured."""

    def seconds_at_once(self, count: int) -> float:
        """Return the mean expected seconds of the trials to run, if so many run at once on a cluster that may grow."""
        if self.at_once:
            return self.seconds.mean
        return self.seconds.mean / max(1, min(count // self.sharing, self.remaining))

    @property
    def finished(self) -> int:
        """How many trials already count."""
        return studies.counted(self.done)

    @property
    def remaining(self) -> int:
        """How many trials are to run."""
        return max(0, self.config.sweep.trials - self.finished)

    @property
    def _first_trials_in_words(self) -> str:
        count = len(self.space.first)
        return f"{count} settings of its own first" if self.config.sweep.first else "from a cold start"

    def table(self) -> Table:
        """Return the plan as a table for the terminal."""
        sweep, place = self.config.sweep, self.config.place
        table = Table(show_header=False, box=None, pad_edge=False, title=f"sweep {sweep.name}", title_justify="left")
        for name, text in self.lines():
            table.add_row(name, text)
        table.add_row("study", hide_password(place.study))
        table.add_row("store", hide_password(place.store))
        table.add_row("mlflow", hide_password(place.mlflow))
        return table

    def lines(self) -> list[tuple[str, str]]:
        """Return the lines of the plan without the places (study, store, MLflow): name and text."""
        sweep = self.config.sweep
        done = ", ".join(f"{count} {state}" for state, count in sorted(self.done.items()) if count)
        gpus = f", {sweep.gpu_share:g} GPU" if sweep.gpu_share > 0 else ", a share of a GPU" if sweep.gpu_share else ""
        resources = f"{sweep.cpus:g} CPU{gpus}"
        concurrency = f"{self.at_once} at once" if self.at_once else "as many at once as the cluster holds"
        limits = f", no new ones after {sweep.hours:g} h" if sweep.hours else ""
        limits += f", or after {sweep.plateau} without a gain" if sweep.plateau else ""
        limits += f", or after {sweep.gpu_hours:g} GPU-hours" if sweep.gpu_hours else ""
        limits += f", or once they cost {sweep.cost:g}" if sweep.cost else ""
        unknown = "known once the first trials are complete" if self.prepared else "known once the features are made"
        one_by_one = "" if self.at_once else ", one after another"
        is_known = not math.isnan(self.seconds.mean)
        time_text = f"about {_duration_in_words(self.seconds)}{one_by_one}{self.assumed}" if is_known else unknown
        fixed_names, pronoun = ", ".join(self.space.fixed), "it" if len(self.space.fixed) == 1 else "them"
        draws = f"the best {sweep.drawn_again} again with {sweep.draws} new draws each, on val"
        finals = f"the best {sweep.finalists} again on {self.config.distill.images}"
        finals += f", {self.config.evaluate.seeds} student seeds, val then test"
        finals_made = min(self.finals_made, sweep.finalists)
        finals += f"; {finals_made} of {sweep.finalists} made already" if finals_made else ""
        if self.final_seconds > 0 and finals_made < sweep.finalists:
            finals += f", about {duration(self.final_seconds)} of one core each"
        return [
            ("space", f"{self.space.name}, {self._first_trials_in_words}"),
            *([("not searched", f"{fixed_names}, since you set {pronoun}")] if fixed_names else []),
            ("trials", f"{self.remaining} to run of {sweep.trials}" + (f" ({done})" if done else "") + limits),
            ("resources", f"{resources} a trial, {concurrency}"),
            ("objectives", ", ".join(sweep.objectives)),
            ("rungs", self.rungs),
            *self.records,
            ("time", time_text if self.remaining else "none"),
            ("new draws", draws if sweep.drawn_again else "none"),
            ("finals", finals if sweep.finalists else "none"),
        ]


def _duration_in_words(seconds: Expected) -> str:
    wide = seconds.high > _WIDE * seconds.low
    return duration_between(seconds.low, seconds.high) if wide else duration(seconds.mean)


def _rungs_in_words(work: Workbench[Any]) -> str:
    sweep = work.config.sweep
    if not sweep.rungs:
        return "none"
    if sweep.rung_students or not work.closed_form:
        scoring = count_of(max(1, sweep.rung_students), "student")
    else:
        students = sweep.fitted_students(sweep.rungs[-1])
        scoring = "ridge regression" + (f", the last by {count_of(students, 'student')}" if students else "")
    stopping = f"weak trials are stopped ({sweep.pruner})" if sweep.pruner != "none" else "no trial is stopped"
    return f"after {', '.join(map(str, sweep.rungs))} % of the steps, scored by {scoring}; {stopping}"


def make_plan(
    work: Workbench[Any], space: Space, examples: Sequence[Config], study: optuna.Study | None, at_once: int
) -> Plan:
    """Make the plan from the store and, if the sweep was started before, its study. Computes only the data's checks.

    Args:
        work: the workbench of the base settings.
        space: the search space.
        examples: example configs of trials, in order: the space's first settings, if they are tried, then random ones.
        study: the sweep's study, if it was started before.
        at_once: trials that run at once; 0 if unknown.
    """
    config = work.config
    done = studies.counts(study) if study else Counter()
    remaining = max(0, config.sweep.trials - studies.counted(done))
    prepared = work.is_prepared
    records = (
        ("features", f"{'in the store' if prepared else 'to make'}: {work.reads}"),
        *_experts_line(work, examples, prepared=prepared),
        *_one_by_one_line(config, examples),
    )
    assumed, sharing = "", 1
    if slot_seconds := held_seconds(study):
        seconds = estimate_from_held(slot_seconds, remaining) / max(1, at_once)
    elif prepared:
        prices = [Price(trial) for trial in open_workbenches(work, examples)]
        first_count = len(space.first) if config.sweep.first else 0
        seconds = estimate_by_simulation(prices[:first_count], prices[first_count:], remaining, config.sweep)
        sharing = together(config, examples)
        seconds /= max(1, at_once // sharing)  # by slots: trials of a slot share its core or GPU
        assumed = f", if a GPU does {GPU_SPEED / 1e12:g} TFLOP/s a trial" if config.sweep.gpu_share else ""
    else:
        seconds = Expected()
    finals = (_final_seconds(work), _finals_made(work, study, remaining))
    return Plan(
        config, space, done, at_once, prepared, _rungs_in_words(work), records, seconds, assumed, *finals, sharing
    )


def _experts_line(work: Workbench[Any], examples: Sequence[Config], *, prepared: bool) -> list[tuple[str, str]]:
    """Return the plan's line on experts; none if no trial reads experts."""
    count = work.config.experts.count
    if not any(trial.distill.reads_experts for trial in examples):
        return []
    if not prepared:
        return [("experts", f"to make: {count} for each recipe of the trials")]
    missing = len(work.open_experts().missing(work.config.distill.expert_epochs))
    return [("experts", f"{count - missing} of {count} in the store for the base recipe")]


def _one_by_one_line(config: Config, examples: Sequence[Config]) -> list[tuple[str, str]]:
    """Return the plan's line on trials whose `distill.objective` keeps them from sharing a slot; none otherwise."""
    names = sorted(set(_objectives_of(config, examples)) - {"trajectory"})
    return [("one by one", f"trials of distill.objective {', '.join(names)} do not share a slot")] if names else []


def _objectives_of(config: Config, examples: Sequence[Config]) -> list[str]:
    """Return `distill.objective` of each trial; without trials, that of the base settings."""
    return [trial.distill.objective for trial in examples or [config]]


def open_workbenches(work: Workbench[Any], trials: Sequence[Config]) -> list[Workbench[Any]]:
    """Return a workbench for each config of a trial. All of them share what the given workbench has opened."""
    shared, settings = (work.store, work.progress, work.opened), trial_settings(work.config)
    return [open_workbench(with_settings(trial, settings), *shared) for trial in trials]


def sharing_experts(trials: Sequence[Workbench[Any]]) -> list[Workbench[Any]]:
    """Return the trials whose experts another of the trials reads too, with fewer experts each.

    Each returned trial has only the experts that it reads before its first rung, since it may never need the others.
    No trials are returned if training the missing experts takes too little time to start workers for it.
    """
    counts = [experts_until(trial.config, first_stop(trial.config)) for trial in trials]
    trials = [changed(trial, {"experts.count": count}) for trial, count in zip(trials, counts, strict=True)]
    readers = Counter(trial.experts_record.fingerprint for trial in trials)
    sharing = [trial for trial in trials if readers[trial.experts_record.fingerprint] > 1]
    if not sharing or sharing[0].feature_widths is None:
        return sharing
    return sharing if total(Cost(0.0, Price(trial).until(END).experts) for trial in sharing) > WORKERS_SECONDS else []


def _final_seconds(work: Workbench[Any]) -> float:
    if work.config.sweep.gpu_share or "images" not in cached(work.config):
        return math.nan
    return pixel_seconds(work.config) if work.config.sweep.finalists else 0.0


def _finals_made(work: Workbench[Any], study: optuna.Study | None, remaining: int) -> int:
    """Count the finals whose synthetic sets the store has; 0 while trials are left, since they may change the best."""
    if not study or remaining or not work.is_prepared:
        return 0
    sweep = work.config.sweep
    configs = [
        with_settings(work.config, candidate.settings)
        for candidate in candidates(study, sweep.objectives)[: sweep.finalists]
    ]
    finals = [open_workbench(config, work.store, work.progress, work.opened) for config in configs]
    return sum(synthetic_record(final).complete for final in finals)


def together(config: Config, examples: Sequence[Config] = ()) -> int:
    """Return how many trials share a slot: `sweep.together`, resolved.

    It is 1 if a trial's objective is not trajectory matching. Unless `sweep.together` is set, it is also 1 if seconds
    are an objective of the sweep, and if most trials have a shape of their own (`group_of`), since trials of different
    shapes in one slot take their steps one after another.

    Args:
        config: the settings that all trials share.
        examples: example configs of trials; if empty, `config` stands for all trials.

    Raises:
        ConfigError: `sweep.together` asks for several trials, but trials learn pixels.
    """
    if any(objective != "trajectory" for objective in _objectives_of(config, examples)):
        return 1
    if "seconds" in config.sweep.objectives and not config.sweep.together:  # a slot's trials change each other's time
        return 1
    learns_features = with_settings(config, trial_settings(config)).distill.images == "features"
    count = config.sweep.together
    if count > 1 and not learns_features:
        raise ConfigError(
            f"sweep.together is {count}, but only trials that learn features can share a slot, and these trials learn "
            "pixels. Set sweep.together to 1."
        )
    if not learns_features or not config.sweep.gpu_share:
        return count or 1
    return count or (AT_ONCE if _step_together(examples) else 1)


def _step_together(examples: Sequence[Config]) -> bool:
    """Return whether among `AT_ONCE` trials like the examples, a trial finds another one of its shape."""
    sizes = Counter(map(group_of, examples)).values()
    return not examples or AT_ONCE * sum(size**2 for size in sizes) >= 2 * len(examples) ** 2


def large_enough(examples: Sequence[Config], widths: tuple[int, int] | None, cards: Sequence[Cards]) -> Sequence[Cards]:
    """Return the machines whose GPUs hold the largest trial; all machines if that is not known.

    Args:
        examples: configs of trials, from the search space.
        widths: of the image and the text features; None if no features are cached.
        cards: GPUs of the cluster's machines.

    Raises:
        ConfigError: no machine's GPUs do.
    """
    if widths is None or not cards:
        return cards
    need = _largest_need(examples, widths)
    if not (large := [machine for machine in cards if min(machine.bytes) >= need]):
        size = max(min(machine.bytes) for machine in cards)
        raise ConfigError(
            f"A trial is expected to need {need / 1e9:.1f} GB of GPU memory, and the GPU has {size / 1e9:.1f} GB. "
            "Lower distill.student_steps or experts.width, or set sweep.gpus to 1 to try it anyway."
        )
    return large


def _largest_need(examples: Sequence[Config], widths: tuple[int, int]) -> int:
    return max(share_bytes(trial, *widths) for trial in examples)


def with_gpu_share(
    config: Config, examples: Sequence[Config], widths: tuple[int, int] | None, cards: Sequence[Cards]
) -> Config:
    """Return the config with `sweep.gpus` -1 replaced by the share of a GPU that the largest trial needs.

    If trials share slots, each slot gets a whole GPU, and `sweep.together` is lowered to the number of the largest
    trials that fit on it. Ray uses the same share on all machines, so if GPUs differ, the smallest one decides.

    Args:
        config: the settings that all trials share.
        examples: configs of trials, from the search space.
        widths: of the image and the text features; None if no features are cached: then a trial gets a whole GPU.
        cards: GPUs of the cluster's machines, from `large_enough`. If empty, `sweep.gpus` stays -1, for a plan before a
            machine is started.
    """
    if config.sweep.gpu_share >= 0 or not cards:
        return config
    if widths is None:
        return with_settings(config, {"sweep.gpus": 1.0})
    size = min(min(machine.bytes) for machine in cards)
    if (requested := together(config, examples)) > 1:
        fitting = min(trials_together(trial, *widths, size) for trial in examples)
        return with_settings(config, {"sweep.gpus": 1.0, "sweep.together": max(1, min(requested, fitting))})
    return with_settings(config, {"sweep.gpus": part_of_gpu(size // _largest_need(examples, widths))})
