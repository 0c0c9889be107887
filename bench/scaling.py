"""`python -m bench.scaling NAME`: measures how time and memory grow with one quantity.

Each point runs in a separate process, so that its peak memory is its own. Tables in docs/performance.md come from
these commands.
"""

import json
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import sqlalchemy
import torch
import tyro
from rich.table import Table
from torch import Generator

from bench.encoder_steps import matching_step, unrolled_step
from bench.inputs import TEMPERATURE, experts_in
from bench.measuring import Pieces, median, now, peak_bytes, time_pieces
from bench.opening import write_made_pairs
from bench.rows.distillation import PUBLISHED
from bench.rows.sweep import busy_seconds
from bench.terminal import terminal
from raydd.config import DistillConfig, SweepConfig
from raydd.data.feature_rows import CaptionRows, FeatureRows, map_shard
from raydd.data.features import SplitFeatures
from raydd.distill.engine import Distillation
from raydd.distill.experts import sgd_step_
from raydd.distill.heads import initial_heads
from raydd.distill.image_variables import LearnedFeatures, Spread
from raydd.distill.similarity import Similarity
from raydd.distill.synthetic import SyntheticSet
from raydd.store import Record, Store
from search_spaces import load_space

_IMAGE_WIDTH, _TEXT_WIDTH = 1280, 384
_REPEATS = 3
_PER_SHARD = 16_384


def pairs(count: int, folder: Path) -> dict[str, float]:
    """A feature distillation step with this number of pairs, and the published student steps and minibatches."""
    return _measure_step(replace(PUBLISHED, pairs=count), folder)


def steps(count: int, folder: Path) -> dict[str, float]:
    """A feature distillation step with this number of student steps, 99 pairs and the exact gradient."""
    return _measure_step(replace(PUBLISHED, student_steps=count, gradient="exact"), folder)


def encoder_steps(count: int, folder: Path) -> dict[str, float]:  # noqa: ARG001
    """A constant-memory step with this number of student steps that train the whole image encoder (protocol A)."""
    return _measure_once(matching_step(count, exact=False))


def encoder_steps_exact(count: int, folder: Path) -> dict[str, float]:  # noqa: ARG001
    """A step as for encoder-steps, but with the exact gradient, by the adjoint of the student's training."""
    return _measure_once(matching_step(count, exact=True))


def encoder_steps_unrolled(count: int, folder: Path) -> dict[str, float]:  # noqa: ARG001
    """A step as for encoder-steps, but with the exact gradient, by unrolling the student's training."""
    return _measure_once(unrolled_step(count))


def captions(count: int, folder: Path) -> dict[str, float]:
    """Thirty expert steps of 128 random pairs, from memory-mapped shards with this number of captions and images."""
    record = Record.of(Store(folder), "features", {}, {}, version=1)
    image_rows, text_rows = [], []
    for start in range(0, count, _PER_SHARD):
        size, name = min(_PER_SHARD, count - start), f"{start:08}.safetensors"
        rows = torch.randn(size, _IMAGE_WIDTH + _TEXT_WIDTH, generator=Generator().manual_seed(start)).half()
        images, texts = rows.split((_IMAGE_WIDTH, _TEXT_WIDTH), dim=1)
        record.write_tensors(name, {"images": images[:, None], "texts": texts})
        image_rows.append(map_shard(record.local(name), "images", (size, 1, _IMAGE_WIDTH)))
        text_rows.append(map_shard(record.local(name), "texts", (size, _TEXT_WIDTH)))
    heads = initial_heads(_IMAGE_WIDTH, _TEXT_WIDTH, _IMAGE_WIDTH, 0)

    def some_steps() -> None:
        images, texts = FeatureRows(tuple(image_rows), _PER_SHARD), CaptionRows(tuple(text_rows), _PER_SHARD)
        split = SplitFeatures(images, texts, torch.arange(count))
        for batch in torch.randperm(count)[: 30 * 128].split(128):
            rows = split.images.gather(split.image_of_text[batch], 0)
            sgd_step_(*heads, rows, split.texts[batch].float(), lr=0.1, temperature=TEMPERATURE)

    return _measure(some_steps)


def nodes(count: int, folder: Path) -> dict[str, float]:
    """Ten trials of 8 s for each node, on this number of Ray nodes on this machine, with one slot each."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    for _ in range(count - 1):
        cluster.add_node(num_cpus=1)
    try:
        busy, available = busy_seconds(
            folder, trials=10 * count, seconds=8.0, slots=count, address=str(cluster.address)
        )
    finally:
        cluster.shutdown()
    return {"trials": 10 * count, "seconds": available / count, "busy share, percent": 100 * busy / available}


def trials(count: int, folder: Path) -> dict[str, float]:
    """This number of trials that do nothing, on two slots: the driver's time for each trial."""
    _, available = busy_seconds(folder, trials=count, seconds=0.0, slots=2)
    return {"seconds": available / 2, "milliseconds a trial": 500 * available / count}


def second_trials(count: int, folder: Path) -> dict[str, float]:
    """This number of trials that sleep for a second, on two slots: by how much they take longer than their seconds."""
    busy, available = busy_seconds(folder, trials=count, seconds=1.0, slots=2)
    return {"seconds": available / 2, "percent more than busy": 100 * (available / busy - 1)}


def driver(count: int, folder: Path) -> dict[str, float]:
    """The driver's CPU time to draw, report twice and finish one trial in an SQLite study of this size."""
    import optuna

    from raydd.settings import load
    from raydd.tuning.study import open_study

    config = load(settings={"sweep.trials": count + _MEASURED_TRIALS})
    space, address = load_space(config.sweep.space), f"sqlite:///{folder}/studies.db"
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    _run_trials(open_study(config, space, address), space, _COPIED_TRIALS)
    _copy_trials(folder / "studies.db", count // _COPIED_TRIALS)
    return {
        f"CPU milliseconds a trial, {sampler}": _run_trials(
            open_study(config, space, address), space, _MEASURED_TRIALS, sampler
        )
        for sampler in ("random", "auto")
    }


_COPIED_TRIALS, _MEASURED_TRIALS = 100, 12  # trials that are run and then copied, and measured trials


def _run_trials(study: Any, space: Any, trials: int, sampler: str = "random") -> float:
    """Run more trials through the searcher, and return CPU milliseconds per trial.

    The first trial is not counted, since it reads the study.
    """
    from raydd.cluster.trial_report import TrialReport
    from raydd.tuning.searcher import StudySearch
    from raydd.tuning.study import finished

    engine = study._storage._backend.engine  # waiting for the disk takes long on a busy machine
    sqlalchemy.event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = OFF"))
    engine.dispose()
    total_trials = finished(study) + trials  # so that no trial is drawn ahead, which would be copied
    search, start_time = StudySearch(study, space, SweepConfig(trials=total_trials, sampler=sampler)), 0.0
    for number in range(trials):
        if number == 1:
            start_time = time.process_time()
        search.suggest(str(number))
        for step in (5, 10):
            curve = [{"step": step, "distill/loss": 1.0}]
            report = TrialReport(step=step, steps=10, r_mean=1.0, record="made" if step == 10 else "", curve=curve)
            search.on_trial_result(str(number), report.as_result())
        search.on_trial_complete(str(number), report.as_result())
    return 1000 * (time.process_time() - start_time) / (trials - 1)


def _copy_trials(database: Path, factor: int) -> None:
    """Copy all trials in Optuna's tables, to have `factor` times as many."""
    with sqlite3.connect(database) as connection:
        (trials,) = connection.execute("SELECT COUNT(*) FROM trials").fetchone()
        for table, key in _COPIED_TABLES.items():
            names = [row[1] for row in connection.execute(f"PRAGMA table_info({table})") if row[1] != key]
            for copy in range(1, factor):
                values = ", ".join(
                    f"{name} + {copy * trials}" if name in ("trial_id", "number") else name for name in names
                )
                connection.execute(
                    f"INSERT INTO {table} ({', '.join(names)}) SELECT {values} FROM {table} WHERE trial_id <= {trials}"
                )


_COPIED_TABLES = {  # tables to copy, with the column that numbers their rows
    "trials": "",
    "trial_params": "param_id",
    "trial_values": "trial_value_id",
    "trial_intermediate_values": "trial_intermediate_value_id",
    "trial_user_attributes": "trial_user_attribute_id",
}


def pairs_listed(count: int, folder: Path) -> dict[str, float]:
    """Opening a listed data set of this number of pairs in a new process, and reading what a trial reads."""
    store = folder / "store"
    listing = write_made_pairs(count, store)
    command = [sys.executable, "-m", "bench.opening", str(store), str(folder / "another machine"), listing]
    first, later = (
        json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout) for _ in range(2)
    )
    size = sum(path.stat().st_size for path in store.rglob("*") if path.is_file())
    return {
        "record, MB": size / 1e6,
        "seconds, first on a machine": first["seconds"],
        "peak MB, first": first["peak MB"],
        "seconds, later": later["seconds"],
        "peak MB, later": later["peak MB"],
    }


@dataclass(frozen=True)
class Scale:
    """One table: a function that measures a point, and the points."""

    measure: Callable[[int, Path], dict[str, float]]
    points: tuple[int, ...]


SCALES = {
    "pairs": Scale(pairs, (100, 500, 2_000)),
    "steps": Scale(steps, (8, 16, 32, 64)),
    "encoder-steps": Scale(encoder_steps, (4, 8, 16, 32)),
    "encoder-steps-exact": Scale(encoder_steps_exact, (4, 8, 16, 32)),
    "encoder-steps-unrolled": Scale(encoder_steps_unrolled, (4, 8, 16, 32)),
    "captions": Scale(captions, (30_000, 300_000, 3_000_000)),
    "pairs-listed": Scale(pairs_listed, (300_000, 1_000_000, 3_300_000)),
    "nodes": Scale(nodes, (1, 2, 4)),
    "trials": Scale(trials, (100, 1_000)),
    "second-trials": Scale(second_trials, (200, 1_000)),
    "driver": Scale(driver, (100, 1_000, 10_000)),
}


@dataclass(frozen=True)
class Options:
    """Measure how time and memory grow with one quantity."""

    name: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="|".join(SCALES))]
    """The quantity that grows."""
    at: int | None = None
    """Measure only this point, in this process, and print it as JSON."""


def main(options: Options) -> int:
    """Print the table of one scale."""
    if options.name not in SCALES:
        print(f"There is no scale {options.name!r}. The scales: {', '.join(SCALES)}.")
        return 2
    scale = SCALES[options.name]
    if options.at is not None:
        torch.set_num_threads(1)
        with tempfile.TemporaryDirectory(prefix="raydd-bench-") as folder:
            print(json.dumps(scale.measure(options.at, Path(folder))))
        return 0
    console, table = terminal(), Table(box=None)
    for count in scale.points:
        command = [sys.executable, "-m", "bench.scaling", options.name, "--at", str(count)]
        process = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        measurements = json.loads(process.stdout.splitlines()[-1])
        if not table.columns:
            for name in (options.name, *measurements):
                table.add_column(name, justify="right")
        table.add_row(f"{count:,}", *(f"{value:,.3g}" for value in measurements.values()))
    console.print(scale.measure.__doc__)
    console.print(table)
    return 0


def _measure_step(config: DistillConfig, folder: Path) -> dict[str, float]:
    """Measure one feature distillation step at the widths of efficientnet-lite0 and MiniLM."""
    experts = experts_in(folder, _IMAGE_WIDTH, _TEXT_WIDTH, _IMAGE_WIDTH, count=2, epochs=2)
    generator = Generator().manual_seed(0)
    similarity = Similarity.start("low-rank", config.pairs, rank=config.rank, alpha=config.alpha, generator=generator)
    start = SyntheticSet(
        torch.randn(config.pairs, _IMAGE_WIDTH, generator=generator),
        torch.randn(config.pairs, _TEXT_WIDTH, generator=generator),
        similarity,
        config.start_rate,
        config.start_rate,
        config.loss,
        torch.arange(config.pairs),
        torch.arange(config.pairs),
    )
    image = LearnedFeatures(Spread(torch.ones(2, _IMAGE_WIDTH), torch.ones(2, _IMAGE_WIDTH)))
    spread = torch.ones(2, _TEXT_WIDTH)
    run = Distillation(start, experts, config, image, text_spread=spread, temperature=TEMPERATURE)
    return _measure(run.step)


def _measure(run: Callable[[], object]) -> dict[str, float]:
    """Return median CPU seconds on one thread, and megabytes added at the peak of the first run."""
    pieces = Pieces({"run": run}, {"run": 1}, {"run": 1})
    peak = peak_bytes(pieces, "raydd")
    return {"CPU seconds": median(time_pieces(pieces, _REPEATS, "cpu"), "run"), "peak MB": peak / 1e6}


def _measure_once(run: Callable[[], object]) -> dict[str, float]:
    """Return CPU seconds and megabytes added at the peak, both of a single run, for work that takes long."""
    start_time = now("cpu")
    peak = peak_bytes(Pieces({"run": run}, {"run": 1}, {"run": 1}), "raydd")
    return {"CPU seconds": now("cpu") - start_time, "peak MB": peak / 1e6}


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
