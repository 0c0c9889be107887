"""Run every stage on the bundled pictures, in a few minutes on two cores and without downloads.

The data are 677 pictures of the Tux Paint stamps with one sentence each. The demo computes features, runs a sweep with
Ray Tune and Optuna whose trials train the experts, and repeats the best settings on pixels. Then it shows test scores
of five student seeds next to random pairs and full data, a picture of the synthetic pairs, and the report. Any setting
can be changed, including the data.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from raydd import cli

if TYPE_CHECKING:
    from raydd.data import DataSet
    from raydd.protocols import Workbench
    from raydd.tuning.results import SweepResult

# For small data: few pairs, narrow heads, a small minibatch so that an epoch has several steps, long trajectories, and
# experts with a lower learning rate.
SETTINGS: Mapping[str, Any] = {
    "features.views": 2,
    "experts.count": 4,
    "experts.lr": 0.2,
    "experts.width": 512,
    "experts.batch_size": 64,
    "experts.epochs": 12,
    "distill.pairs": 50,
    "distill.steps": 60,
    "distill.student_steps": 4,
    "distill.target_epochs": 6,
    "distill.max_start_epoch": 1,
    "pixels.steps": 20,
    "sweep.name": "demo",
    "sweep.space": "demo",
    "sweep.trials": 6,
    "sweep.pruner": "none",  # with such short trials, other load on the machine would decide which are stopped
    "sweep.drawn_again": 0,
    "sweep.finalists": 1,
}


@dataclass(frozen=True, kw_only=True)
class Options(cli.Options):
    """Every stage on the bundled pictures."""

    defaults: ClassVar[Mapping[str, Any]] = SETTINGS


def main(options: Options) -> int:
    """Run every stage and show the results."""
    from raydd.commands import report
    from raydd.device import use_threads
    from raydd.place import home, open_store
    from raydd.protocols import changed, open_workbench
    from raydd.stages import run
    from raydd.sweep import sweep
    from raydd.terminal.console import open_console
    from raydd.terminal.progress import progress_on
    from raydd.terminal.text import scores_table, share_of_full, students_in_words

    start_time, config, console = time.monotonic(), options.settings, open_console()
    use_threads(config.place)
    store, home_folder = open_store(config.place), home(config.place)
    with progress_on(console) as progress:
        work = open_workbench(config, store, progress)
        for line in work.data.summary():
            console.print(line)
        work.require_enough_pairs()
        work.prepare()
    sweep_result = sweep(config, given=options.given)
    if sweep_result is None or not sweep_result.settings:
        console.print("No trial ran to completion, so there is nothing to score.")
        return 1
    with progress_on() as progress:
        best = changed(work.with_progress(progress), sweep_result.settings)
        result = run(best)
    rows = {name: row for name, row in result.items() if name != "made"}
    title = f"{config.evaluate.split}, {config.distill.pairs} pairs, {students_in_words(config.evaluate)}, percent"
    console.print(scores_table(rows, title))
    picture = _draw_pairs(best, home_folder / "demo")
    console.print(f"pairs: {picture}\nset: {store.root}/{result['made']['synthetic_record']}", soft_wrap=True)
    report.main(report.Options(settings=config))
    console.print(_explain_scores(sweep_result, work.data), highlight=False)
    minutes = (time.monotonic() - start_time) / 60
    console.print(
        f"{minutes:.1f} minutes. `raydd board` shows all trials. Next, your own data: `raydd init FOLDER` "
        "(docs/data.md).",
        highlight=False,
    )
    console.print(share_of_full(rows, config.distill.pairs, len(work.data.train.captions)), style="bold")
    return 0


def _explain_scores(result: "SweepResult", data: "DataSet") -> str:
    """Explain why the best trial has three scores: as a trial, as a final on val, and on test; empty without finals."""
    if not result.finalists:
        return ""
    from raydd.protocols import trial_settings

    final, images = result.finalists[0], result.config.distill.images
    before, after = (
        "as features" if images_setting == "features" else "as images"
        for images_setting in (trial_settings(result.config).get("distill.images", images), images)
    )
    val, test = (rows["r_mean"]["mean"] for rows in (final.val, final.test))
    rank = "the best" if final.cheap == max(result.scores.values()) else "one"
    return (
        f"Trial {final.number} has three scores: {final.cheap:.1f} on val {before}, where it is {rank} of "
        f"{result.finished} trials; {val:.1f} on val {after}; {test:.1f} on test, which was not used for any choice "
        f"and has {len(data.test.images)} images to retrieve from instead of {len(data.val.images)}."
    )


def _draw_pairs(work: "Workbench[Any]", folder: Path) -> Path:
    """Draw the synthetic pairs next to the pictures that they started from."""
    from raydd.charts.figures import pairs_picture
    from raydd.stages import final_synthetic

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "pairs.png"
    figure = pairs_picture(final_synthetic(work), work.data.train, work.image_encoder.size)
    figure.savefig(path, dpi=110)
    return path
