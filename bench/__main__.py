"""`python -m bench`: times each stage next to the published loop, and checks that it meets its floor."""

import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import tyro
from rich.table import Table

from bench.measuring import FULL, QUICK, Clock, keep_memory, median, memory_is_measurable, time_pieces, total
from bench.memory import peak_of
from bench.rows import ROWS, Row
from bench.terminal import terminal
from raydd.terminal.text import count_of


@dataclass(frozen=True)
class Options:
    """Time raydd's stages next to the published loop. The exit code is 1 if a stage is below its floor."""

    quick: bool = False
    """Use small sizes and generous floors, for CI: takes some minutes."""
    only: tuple[str, ...] = ()
    """Rows to measure; all by default."""
    threads: int = 1
    """CPU threads of each side."""
    clock: Clock = "cpu"
    """cpu: CPU seconds, which other work on the machine does not change. wall: wall-clock seconds, for an idle
    machine."""
    data: Path | None = None
    """YAML file of a data set whose features and experts are in raydd's store, for the row `equal`."""
    json: Path | None = None
    """Also write all numbers to this file."""


@dataclass(frozen=True)
class Result:
    """The measurements of one row."""

    name: str
    baseline: float
    raydd: float
    value: float
    """The value that is compared with the floor: a ratio, or raydd's number itself."""
    floor: float
    aim: float | None
    kept: bool
    """Whether time and memory are within their limits."""
    pieces: dict[str, float]
    """Median seconds of each piece."""
    counts: dict[str, dict[str, float]]
    """How often each side runs each piece."""
    baseline_bytes: int | None = None
    raydd_bytes: int | None = None


def measure(row: Row, options: Options) -> Result:
    """Measure one row."""
    size, floor = (
        (QUICK, row.quick_floor) if options.quick else (replace(FULL, data=str(options.data or "")), row.floor)
    )
    assert floor is not None
    seconds, counts = {}, {}
    with tempfile.TemporaryDirectory(prefix="raydd-bench-") as name:
        folder = Path(name)
        if row.pieces:
            pieces = row.pieces(size, folder)
            rounds = time_pieces(pieces, size.rounds, options.clock)
            seconds = {name: median(rounds, name) for name in pieces.run}
            counts = {side: dict(pieces.side(side)) for side in ("baseline", "raydd")}
            pairs = [
                (total(pieces.baseline, seconds_of_round), total(pieces.raydd, seconds_of_round))
                for seconds_of_round in rounds
            ]
            del pieces
        else:
            assert row.numbers is not None
            pairs = [row.numbers(size, folder)]
    baseline, raydd = (statistics.median(side) for side in zip(*pairs, strict=True))
    value = statistics.median(row.measure.compute(*pair) for pair in pairs)
    within_limits, peaks = row.measure.holds(value, floor), (None, None)
    if row.memory and memory_is_measurable() and not options.quick:
        peaks = tuple(peak_of(row.name, side, threads=options.threads) for side in ("baseline", "raydd"))
        within_limits = within_limits and row.memory.holds(*peaks)
    return Result(row.name, baseline, raydd, value, floor, row.aim, within_limits, seconds, counts, *peaks)


def table_of(rows: Iterable[tuple[Row, Result]], title: str) -> Table:
    """Return the results as a table for the terminal."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in ("row", "baseline", "raydd", "measured", "floor", "aim", "peak: baseline", "raydd"):
        table.add_column(name, justify="left" if name == "row" else "right", no_wrap=True)
    for row, result in rows:
        format_value = row.measure.value_format.format
        table.add_row(
            row.name,
            _format_amount(row, result.baseline),
            _format_amount(row, result.raydd),
            f"[{'green' if result.kept else 'bold red'}]{format_value(result.value)}[/]",
            format_value(result.floor),
            format_value(result.aim) if result.aim else "",
            _format_megabytes(result.baseline_bytes),
            _format_megabytes(result.raydd_bytes),
        )
    return table


def main(options: Options) -> int:
    """Measure the rows, print the table, and name the rows that are below their floor."""
    console = terminal()
    unknown = set(options.only) - {row.name for row in ROWS}
    if unknown:
        console.print(f"There is no row {sorted(unknown)}. The rows: {', '.join(row.name for row in ROWS)}.")
        return 2
    keep_memory()
    torch.set_num_threads(options.threads)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # for the processes that this process starts
    selected_rows = [
        row
        for row in ROWS
        if (not options.only or row.name in options.only) and (not options.quick or row.quick_floor is not None)
    ]
    start_time, results = time.monotonic(), []
    for row in selected_rows:
        with console.status(f"{row.name}: {row.description}"):
            results.append((row, measure(row, options)))
        console.log(f"{row.name}: {row.measure.value_format.format(results[-1][1].value)}")
    clock = "CPU seconds" if options.clock == "cpu" else "wall-clock seconds"
    threads = count_of(options.threads, "thread")
    rounds = (QUICK if options.quick else FULL).rounds
    title = f"{clock}, {threads}, medians of {rounds} rounds; torch {torch.__version__}, {_processor_name()}"
    console.print(table_of(results, title))
    console.print(
        f"{(time.monotonic() - start_time) / 60:.1f} minutes. "
        "Times of hours are sums over measured pieces (see --json)."
    )
    if options.json:
        report = {"machine": title, "quick": options.quick, "rows": [asdict(result) for _, result in results]}
        options.json.write_text(json.dumps(report, indent=1))
    below_floor = [row.name for row, result in results if not result.kept]
    if below_floor:
        console.print(
            f"Below the floor: {', '.join(below_floor)}. Find what changed, or run `--only {below_floor[0]}` again."
        )
    return 1 if below_floor else 0


def _format_amount(row: Row, number: float) -> str:
    if row.name == "storage":
        return f"{number:.3f} GB"
    if number < 60:
        return f"{number:.3g} s"
    return f"{number / 60:.3g} min" if number < 3600 else f"{number / 3600:.3g} h"


def _format_megabytes(count: int | None) -> str:
    return "" if count is None else f"{count / 1e6:,.0f} MB"


def _processor_name() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else platform.processor()


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__, use_underscores=True)))
