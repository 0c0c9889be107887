"""The rows of the benchmark, by stage."""

from bench.rows.distillation import DISTILLATION
from bench.rows.equal import EQUAL
from bench.rows.evaluation import EVALUATION
from bench.rows.experts import EXPERTS
from bench.rows.row import Row
from bench.rows.start import START
from bench.rows.sweep import SWEEP

ROWS: tuple[Row, ...] = (*EXPERTS, *DISTILLATION, *EQUAL, *EVALUATION, *SWEEP, *START)

__all__ = ["ROWS", "Row"]
