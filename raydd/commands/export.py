"""Export a synthetic set, or a student trained on it, in a common format, with a data card from its provenance."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import tyro

from raydd import cli
from raydd.errors import ConfigError
from raydd.plain_files import require_writable_folder
from raydd.terminal.console import open_console


@dataclass(frozen=True, kw_only=True)
class Options(cli.Options):
    """The set, and the format to write."""

    set: Path | None = None
    """Folder of the synthetic set, as `raydd run` prints it at its end."""
    to: Literal["hf", "hub", "webdataset", "png", "head", "onnx"] = "hf"
    """Format [hf]. hf: a folder for Hugging Face's `datasets`; hub: the same, with a card that has the score and the
    command that gave it (needs the data); webdataset: a tar shard; png: pictures and JSON; head: a trained student's
    heads as safetensors; onnx: a trained student with the image encoder."""
    out: tyro.conf.Positional[Path] = field(default=Path("export"))
    """Folder to write to [export]."""
    licence: str = ""
    """Licence of the source data in your own words, if raydd does not know the data."""
    push: str = ""
    """Also push the folder to this data set of the Hugging Face hub, USER/NAME; log in first with `hf auth login`."""


def main(options: Options) -> int:
    """Write the files, list them, and push them with --push."""
    if not options.set:
        raise ConfigError("--set is missing. Give the folder of a synthetic set, as `raydd run` prints it at its end.")
    from raydd.device import use_threads
    from raydd.export.exporting import export_set, exported_file_names, push
    from raydd.sets.read import open_set
    from raydd.terminal.progress import progress_on

    if options.out.is_file():
        raise ConfigError(f"{options.out} is a file. Give a folder to write to.")
    require_writable_folder(options.out, "the folder to write to")
    use_threads(options.settings.place)
    console = open_console()
    with progress_on() as progress:
        files = export_set(
            options.set, options.to, options.out, options.settings, licence=options.licence, progress=progress
        )
    for name, description in files.items():
        console.print(f"{options.out / name}: {description}", soft_wrap=True, highlight=False, markup=False)
    if options.push:
        pairs = len(open_set(options.set).synthetic)
        console.print(push(options.out, options.push, exported_file_names(files, pairs)), soft_wrap=True)
    return 0
