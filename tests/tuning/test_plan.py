"""What a sweep and a comparison refuse before anything starts."""

import pytest
from rich.console import Console

from raydd.errors import ConfigError
from raydd.settings import load
from raydd.tuning.comparison import run_comparison
from raydd.tuning.whole import run_sweep


@pytest.mark.parametrize("run", [run_sweep, run_comparison])
def test_protocol_a_is_refused_at_once(run) -> None:
    config = load(settings={"distill.protocol": "encoder"})
    with pytest.raises(ConfigError, match=r"distill\.protocol is 'encoder', but sweeps and comparisons"):
        run(config, "local", dry_run=True, console=Console(quiet=True))
