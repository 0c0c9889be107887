"""`python -m bench.asked`: counts operations that training needs on a GPU, at published sizes and without a GPU.

For each piece of work the table shows the operations, launches, waits of the host, and copies to the device, of one
step or one epoch. The step of the engine, which runs on a CPU, is listed next to that of populations. See
`bench.counting` for how they are counted.
"""

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest import mock

import torch
import tyro
from rich.table import Table
from torch import Tensor

from bench.counting import Counts, count_operations
from bench.inputs import TEMPERATURE, experts_in, split_of
from bench.rows.distillation import PUBLISHED, distillation_of, spread_of, start_of
from bench.terminal import terminal
from raydd.config import ExpertsConfig, StudentsConfig
from raydd.distill import experts
from raydd.distill.heads import initial_heads
from raydd.distill.image_variables import LearnedFeatures
from raydd.distill.population import Population
from raydd.evaluate import students
from raydd.evaluate.students import StudentsRun

_SLOTS, _EXPERT_STEPS, _SEEDS = 16, 10, 5


@dataclass(frozen=True)
class Options:
    """Count the operations that training needs on a GPU."""

    width: int = 2304
    """Width of image features and heads; text features are a third as wide."""


def main(options: Options) -> None:
    """Print the table."""
    table = Table(box=None)
    for column in ("what", "operations", "launches", "waits", "copies", "MB copied"):
        table.add_column(column, justify="left" if column == "what" else "right", no_wrap=True)
    for piece, (counts, units) in counts_of(options.width).items():
        numbers = counts.total, counts.launches, counts.waits.total(), counts.copies, counts.copied_bytes / 1e6
        table.add_row(piece, *(f"{number / units:,.4g}" for number in numbers))
    terminal().print(table)


def counts_of(width: int) -> dict[str, tuple[Counts, int]]:
    """Return the counts of each piece of work, and the number of units that they are for."""
    counts: dict[str, tuple[Counts, int]] = {}
    start = start_of(torch.randn(PUBLISHED.pairs, width), width // 3)
    with tempfile.TemporaryDirectory(prefix="raydd-bench-") as folder:
        trained_experts = experts_in(Path(folder), width, width // 3, width, count=2, epochs=2)
        distillation = distillation_of(start, trained_experts, LearnedFeatures(spread_of(start)))
        counts["feature step of the engine, on a CPU"] = count_operations(distillation.step), 1
        for slots in (1, _SLOTS):
            population = Population("meta")
            for _ in range(slots):
                population.fill(distillation_of(start, trained_experts, LearnedFeatures(spread_of(start)), "meta"))
            population.step()
            counts[f"feature step of a trial, {slots} together"] = count_operations(population.step), slots
    with as_on_gpu():
        run = StudentsRun(
            start,
            StudentsConfig(),
            width=width,
            temperature=TEMPERATURE,
            seeds=range(_SEEDS),
            device="meta",
        )
        counts[f"epoch of {_SEEDS} students"] = count_operations(run.train_epoch), 1
        recipe = ExpertsConfig()
        split = split_of(_EXPERT_STEPS * recipe.batch_size, width, width // 3, captions=1).on("meta")
        for together in (1, experts.MOST_AT_ONCE):
            heads = initial_heads(width, width // 3, width, 0)
            image, text = (experts.copies_on([head] * together, "meta") for head in heads)
            seeds = range(together)
            train = partial(experts.train_epoch_, image, text, split, recipe, epoch=1, seeds=seeds, device="meta")
            counts[f"step of an expert, {together} together"] = count_operations(train), _EXPERT_STEPS * together
    return counts


@contextlib.contextmanager
def as_on_gpu() -> Iterator[None]:
    """Make training on the device `meta` possible inside the block; `meta` has no random generators of its own."""

    def generator(_device: str = "cpu") -> torch.Generator:
        return torch.Generator()

    def mask(shape: tuple[int, ...], rate: float, _generator: torch.Generator) -> Tensor:
        return (torch.rand(shape, device="meta") >= rate).float().div_(1 - rate)

    with contextlib.ExitStack() as stack:
        for module in (experts, students):
            stack.enter_context(mock.patch.multiple(module, Generator=generator, dropout_mask=mask))
        yield


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__, use_underscores=True)))
