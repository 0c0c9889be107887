"""One page on a sweep, or on a single synthetic set, that opens without a server: results, search, pairs, cost."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from raydd import cli
from raydd.plain_files import require_writable
from raydd.terminal.console import open_console

LOOK_SECONDS = 1.0  # between two looks at whether it is to be told that the page takes its time


@dataclass(frozen=True, kw_only=True)
class Options(cli.Options):
    """A page on the sweep that `sweep.name` names, the latest one by default, or on one set."""

    defaults: ClassVar[Mapping[str, Any]] = {"sweep.name": "latest"}
    set: Path | None = None
    """Folder of a synthetic set, to show it alone. Its settings are used and yours win, but must name the same data and
    encoders."""
    comparison: str = ""
    """Name of a comparison that `raydd compare` made (`compare.name`), to show it instead."""
    film: int = 0
    """Frames of a film of the distillation, which is repeated on features to make it. 0: no film."""
    out: Path | None = None
    """Where to write the page; else reports/NAME.html in `place.home`."""
    map: Literal["pca", "umap"] = "pca"
    """pca (principal components) or umap (extra `umap`): the plane in which both modalities are drawn."""


def main(options: Options) -> int:
    """Write the page and say where it is."""
    from raydd.cluster.meanwhile import meanwhile
    from raydd.compare.page import comparison_page
    from raydd.place import study_address, use_threads
    from raydd.report.making import report_of_set, report_of_sweep
    from raydd.report.page import write_page
    from raydd.report.sets import Looks
    from raydd.settings import with_settings
    from raydd.terminal.progress import progress_on
    from raydd.tuning.study import sweep_named

    if options.out:
        require_writable(options.out, "--out")
    use_threads(options.settings.place)
    looks = Looks(options.map, options.film)
    with progress_on() as progress, meanwhile(lambda: progress("pages written", 0, 1), LOOK_SECONDS, "report"):
        progress("pages written", 0, 1)
        if options.set:
            page, name = report_of_set(options.set, options.settings, looks, progress), options.set.name
        elif options.comparison:
            page, name = comparison_page(_home(options) / "comparisons" / options.comparison), options.comparison
        else:
            place = options.settings.place
            name = sweep_named(options.settings.sweep.name, study_address(place))
            # The sweep's own settings, unless a file says others.
            own = options.config is None
            page = report_of_sweep(
                with_settings(options.settings, {"sweep.name": name}), looks, progress, own_settings=own
            )
    path = write_page(page, options.out or _home(options) / "reports" / f"{name}.html")
    megabytes = path.stat().st_size / 1e6
    open_console().print(f"{path}: {megabytes:.1f} MB, open it in a browser", soft_wrap=True, highlight=False)
    return 0


def _home(options: Options) -> Path:
    from raydd.place import home

    return home(options.settings.place)
