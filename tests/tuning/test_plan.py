"""What a sweep refuses before anything starts."""

import pytest
from rich.console import Console

from raydd.errors import ConfigError
from raydd.settings import load
from raydd.tuning.whole import run_sweep


def test_protocol_a_is_refused_at_once() -> None:
    config = load(settings={"distill.protocol": "encoder"})
    with pytest.raises(ConfigError, match=r"distill\.protocol is 'encoder', but sweeps search on cached features"):
        run_sweep(config, "local", dry_run=True, console=Console(quiet=True))
