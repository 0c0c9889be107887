"""Distil a synthetic set. An interrupted distillation continues from its checkpoint."""

from raydd import cli
from raydd.terminal.console import open_console

Options = cli.Options


def main(options: cli.Options) -> int:
    """Make the synthetic set and print where it is stored."""
    from raydd.device import use_threads
    from raydd.place import open_store
    from raydd.protocols import open_workbench
    from raydd.stages import final_synthetic, synthetic_record
    from raydd.terminal.progress import progress_on

    config = options.settings
    use_threads(config.place)
    store, console = open_store(config.place), open_console()
    with progress_on() as progress:
        work = open_workbench(config, store, progress)
        synthetic, record = final_synthetic(work), synthetic_record(work)
    console.print(
        f"{len(synthetic)} synthetic pairs in {store.root}/{record.folder}: synthetic.safetensors, pairs.parquet"
        f"{', images/' if synthetic.pixels is not None else ''}, manifest.json.",
        soft_wrap=True,
    )
    return 0
