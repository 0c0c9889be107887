"""What a sweep is about to do, shown before it does it."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from rich.table import Table

from raydd.cluster.gpus import Cards, part_of_gpu
from raydd.config import Config
from raydd.cost.bytes import trial_bytes, trials_together
from raydd.cost.seconds import pixel_seconds
from raydd.errors import ConfigError
from raydd.protocols import Workbench, cached, changed, open_workbench, trial_settings
from raydd.secrets_hidden import hide_password
from raydd.settings import with_settings
from raydd.stages.distilling import synthetic_record
from raydd.stages.population import AT_ONCE
from raydd.terminal.text import duration, duration_between
from raydd.tuning import study as studies
from raydd.tuning.expected import Expected, as_held, as_played, held_seconds
from raydd.tuning.prices import END, GPU_SPEED, Cost, Price, experts_until, first_stop, total
from raydd.tuning.results import candidates
from search_spaces import Space

_WIDE = 1.5  # times the least time that the most may be before both are told
WORKERS_SECONDS = 30.0  # of experts that are worth Ray Train's workers, which take ten to start


@dataclass(frozen=True)
class Plan:
    """The sweep to come."""

    config: Config
    space: Space
    done: Counter[str]
    """Trials of earlier commands, by state."""
    at_once: int
    """Trials that run together; 0 leaves it to a cluster that may grow."""
    prepared: bool
    """Whether the store has what trials read of the data."""
    rungs: str
    """Where trials are scored on their way, by what, and whether weak ones are stopped, in words."""
    records: tuple[tuple[str, str], ...]
    """Shared records of the base settings: name, and what of it is there."""
    seconds: Expected
    """Expected time of the trials to run."""
    assumed: str
    """What that time takes for granted; empty if it is measured."""
    final_seconds: float
    """Expected time of a finalist's pixels on one core; NaN if there is nothing to go by, 0 if there are none."""
    finals_made: int
    """Finals whose sets the store has."""

    @property
    def finished(self) -> int:
        """Trials that count already."""
        return studies.counted(self.done)

    @property
    def left(self) -> int:
        """Trials to run."""
        return max(0, self.config.sweep.trials - self.finished)

    @property
    def _first(self) -> str:
        known = len(self.space.first)
        return f"{known} settings of its own first" if self.config.sweep.first else "from a cold start"

    def table(self) -> Table:
        """The plan for the terminal."""
        sweep, place = self.config.sweep, self.config.place
        table = Table(show_header=False, box=None, pad_edge=False, title=f"sweep {sweep.name}", title_justify="left")
        for name, text in self.lines():
            table.add_row(name, text)
        table.add_row("study", hide_password(place.study))
        table.add_row("store", hide_password(place.store))
        table.add_row("mlflow", hide_password(place.mlflow))
        return table

    def lines(self) -> list[tuple[str, str]]:
        """The plan's lines but for its places: name and text."""
        sweep = self.config.sweep
        done = ", ".join(f"{count} {state}" for state, count in sorted(self.done.items()) if count)
        gpus = f", {sweep.gpu_share:g} GPU" if sweep.gpu_share > 0 else ", a share of a GPU" if sweep.gpu_share else ""
        share = f"{sweep.cpus:g} CPU{gpus}"
        together = f"{self.at_once} at once" if self.at_once else "as many at once as the cluster holds"
        hours = f", no new ones after {sweep.hours:g} h" if sweep.hours else ""
        hours += f", or after {sweep.plateau} without a gain" if sweep.plateau else ""
        hours += f", or after {sweep.gpu_hours:g} GPU-hours" if sweep.gpu_hours else ""
        hours += f", or once they cost {sweep.cost:g}" if sweep.cost else ""
        unknown = "known once the first trials are complete" if self.prepared else "known once the features are there"
        one_by_one = "" if self.at_once else ", one after another"
        known = not math.isnan(self.seconds.mean)
        seconds = f"about {_in_words(self.seconds)}{one_by_one}{self.assumed}" if known else unknown
        kept, it = ", ".join(self.space.kept), "it" if len(self.space.kept) == 1 else "them"
        draws = f"the best {sweep.drawn_again} again with {sweep.draws} new draws each, on val"
        finals = f"the best {sweep.finalists} again on {self.config.distill.images}"
        finals += f", {self.config.evaluate.seeds} student seeds, val then test"
        made = min(self.finals_made, sweep.finalists)
        finals += f"; {made} of {sweep.finalists} made already" if made else ""
        if self.final_seconds > 0 and made < sweep.finalists:
            finals += f", about {duration(self.final_seconds)} of one core each"
        return [
            ("space", f"{self.space.name}, {self._first}"),
            *([("not searched", f"{kept}, since you set {it}")] if kept else []),
            ("trials", f"{self.left} to run of {sweep.trials}" + (f" ({done})" if done else "") + hours),
            ("resources", f"{share} a trial, {together}"),
            ("objectives", ", ".join(sweep.objectives)),
            ("rungs", self.rungs),
            *self.records,
            ("time", seconds if self.left else "none"),
            ("new draws", draws if sweep.drawn_again else "none"),
            ("finals", finals if sweep.finalists else "none"),
        ]


def _in_words(seconds: Expected) -> str:
    wide = seconds.high > _WIDE * seconds.low
    return duration_between(seconds.low, seconds.high) if wide else duration(seconds.mean)


def _rungs(work: Workbench[Any]) -> str:
    sweep = work.config.sweep
    if not sweep.rungs:
        return "none"
    if sweep.rung_students or not work.closed_form:
        scored = _students(max(1, sweep.rung_students))
    else:
        fitted = sweep.fitted_students(sweep.rungs[-1])
        scored = "ridge regression" + (f", the last by {_students(fitted)}" if fitted else "")
    stopped = f"weak trials are stopped ({sweep.pruner})" if sweep.pruner != "none" else "no trial is stopped"
    return f"after {', '.join(map(str, sweep.rungs))} % of the steps, scored by {scored}; {stopped}"


def _students(count: int) -> str:
    return f"{count} student{'s' * (count > 1)}"


def make_plan(
    work: Workbench[Any], space: Space, drawn: Sequence[Config], study: optuna.Study | None, at_once: int
) -> Plan:
    """Look at the study, if the sweep was started before, and at the store; computes nothing but the data's checks.

    Args:
        work: the workbench of the base settings.
        space: what is searched.
        drawn: what trials may be like, in their order: the first ones, if they are tried, then random ones.
        study: the sweep's, if it was started before.
        at_once: trials that run together; 0 where nobody knows.
    """
    config = work.config
    done = studies.counts(study) if study else Counter()
    left = max(0, config.sweep.trials - studies.counted(done))
    prepared = work.is_prepared
    records = (
        ("features", f"{'there' if prepared else 'to make'}: {work.reads}"),
        *_experts_line(work, drawn, prepared=prepared),
        *_one_by_one_line(config, drawn),
    )
    assumed = ""
    if held := held_seconds(study):
        seconds = as_held(held, left) / max(1, at_once)
    elif prepared:
        prices = [Price(trial) for trial in on_workbenches(work, drawn)]
        known = len(space.first) if config.sweep.first else 0
        seconds = as_played(prices[:known], prices[known:], left, config.sweep)
        seconds /= max(1, at_once // together(config, drawn))  # of a slot, whose trials share its core or GPU
        assumed = f", if a GPU does {GPU_SPEED / 1e12:g} TFLOP/s a trial" if config.sweep.gpu_share else ""
    else:
        seconds = Expected()
    finals = (_final_seconds(work), _finals_made(work, study, left))
    return Plan(config, space, done, at_once, prepared, _rungs(work), records, seconds, assumed, *finals)


def _experts_line(work: Workbench[Any], drawn: Sequence[Config], *, prepared: bool) -> list[tuple[str, str]]:
    """What the plan says of experts: nothing where no trial reads any."""
    count = work.config.experts.count
    if not any(trial.distill.reads_experts for trial in drawn):
        return []
    if not prepared:
        return [("experts", f"to make: {count} for each recipe of the trials")]
    missing = len(work.open_experts().missing(work.config.distill.expert_epochs))
    return [("experts", f"{count - missing} of {count} there in the base recipe")]


def _one_by_one_line(config: Config, drawn: Sequence[Config]) -> list[tuple[str, str]]:
    """What the plan says where trials could share a slot but for what they lower."""
    others = sorted(set(_lowered(config, drawn)) - {"trajectory"})
    return [("one by one", f"trials of distill.objective {', '.join(others)} do not share a slot")] if others else []


def _lowered(config: Config, drawn: Sequence[Config]) -> list[str]:
    """The objectives of the trials; the base settings' where none is drawn."""
    return [trial.distill.objective for trial in drawn or [config]]


def on_workbenches(work: Workbench[Any], trials: Sequence[Config]) -> list[Workbench[Any]]:
    """Trials of these configs, each on a workbench that shares what the given one opened."""
    shared, settings = (work.store, work.progress, work.opened), trial_settings(work.config)
    return [open_workbench(with_settings(trial, settings), *shared) for trial in trials]


def sharing_experts(trials: Sequence[Workbench[Any]]) -> list[Workbench[Any]]:
    """The trials whose experts another one of them reads too, if making what is missing is worth starting workers.

    Each has the number of experts that it draws from before its first rung: it may not need the others.
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


def _finals_made(work: Workbench[Any], study: optuna.Study | None, left: int) -> int:
    """Finals whose sets the store has; none while there are trials to run, since other ones may be the best then."""
    if not study or left or not work.is_prepared:
        return 0
    sweep = work.config.sweep
    best = [with_settings(work.config, one.settings) for one in candidates(study, sweep.objectives, sweep.finalists)]
    finals = [open_workbench(one, work.store, work.progress, work.opened) for one in best]
    return sum(synthetic_record(final).complete for final in finals)


def together(config: Config, drawn: Sequence[Config] = ()) -> int:
    """How many trials step together in a slot: `sweep.together`, resolved.

    1 where a trial matches no trajectories, and where its seconds are an objective.

    Args:
        config: what all trials share.
        drawn: what trials may be like; like `config` alone if empty.

    Raises:
        ConfigError: several are asked for, and trials learn pixels.
    """
    if any(objective != "trajectory" for objective in _lowered(config, drawn)):
        return 1
    if "seconds" in config.sweep.objectives and not config.sweep.together:  # those of a step depend on its neighbours
        return 1
    able = with_settings(config, trial_settings(config)).distill.images == "features"
    wanted = config.sweep.together
    if wanted > 1 and not able:
        raise ConfigError(
            f"sweep.together is {wanted}, but trials step together only where they learn features, and these learn "
            "pixels. Set sweep.together to 1."
        )
    return wanted or (AT_ONCE if able and config.sweep.gpu_share else 1)


def with_gpu_share(
    config: Config, drawn: Sequence[Config], widths: tuple[int, int] | None, cards: Sequence[Cards]
) -> Config:
    """The config with `sweep.gpus` -1 replaced by the share of a GPU that its largest trial needs.

    A slot gets a whole GPU, and `sweep.together` is at most how many of the largest trials that holds. Ray asks all
    machines for the same share, so where cards differ it is that of the smallest.

    Args:
        config: what all trials share.
        drawn: configs of trials, from the search space.
        widths: of the image and the text features; None where nothing is cached, and a trial gets a whole GPU.
        cards: of the cluster's machines; none leave it at -1, for a plan before a machine is started.

    Raises:
        ConfigError: a trial does not fit on the smallest card.
    """
    if config.sweep.gpu_share >= 0 or not cards:
        return config
    if widths is None:
        return with_settings(config, {"sweep.gpus": 1.0})
    need, size = max(trial_bytes(trial, *widths) for trial in drawn), min(min(machine.bytes) for machine in cards)
    if need > size:
        raise ConfigError(
            f"A trial is expected to need {need / 1e9:.1f} GB of GPU memory, and the GPU has {size / 1e9:.1f} GB. "
            "Lower distill.student_steps or experts.width, or set sweep.gpus to 1 to try it all the same."
        )
    if (most := together(config, drawn)) > 1:
        fit = min(trials_together(trial, *widths, size) for trial in drawn)
        return with_settings(config, {"sweep.gpus": 1.0, "sweep.together": max(1, min(most, fit))})
    return with_settings(config, {"sweep.gpus": part_of_gpu(size // need)})
