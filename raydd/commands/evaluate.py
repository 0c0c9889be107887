"""Score a synthetic set beside its baselines; the set is made first if the store lacks it."""

from raydd.commands.run import Options, main

__all__ = ["Options", "main"]
