"""Write one HTML page about a sweep or a synthetic set, which opens without a server: results, search, pairs, cost."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from raydd import cli
from raydd.plain_files import require_writable
from raydd.progress import Progress
from raydd.ranges import check_name, require
from raydd.terminal.console import open_console

if TYPE_CHECKING:
    from raydd.report.page import Page

LOOK_SECONDS = 1.0  # between two updates of the progress while the page is made


@dataclass(frozen=True, kw_only=True)
class Options(cli.Options):
    """The sweep `sweep.name`, by default the latest, or one set or comparison."""

    defaults: ClassVar[Mapping[str, Any]] = {"sweep.name": "latest"}
    set: Path | None = None
    """Folder of a synthetic set to show instead, with its own settings. Settings that you give win, but must name the
    same data and encoders."""
    comparison: str = ""
    """Name of a comparison by `raydd compare` (`compare.name`) to show instead."""
    film: int = 0
    """Most frames, after the one of the start, of a film of the distillation, which is repeated on features for it (0:
    no film)."""
    out: Path | None = None
    """File to write; if left out, reports/NAME.html in `place.home`."""
    map: Literal["pca", "umap"] = "pca"
    """Projection to the plane in which both modalities are drawn: pca or umap (needs the extra `umap`) [pca]."""


def main(options: Options) -> int:
    """Write the page and print its path."""
    from raydd.device import use_threads
    from raydd.meanwhile import meanwhile
    from raydd.report.page import write_page
    from raydd.terminal.progress import progress_on

    require(options.film >= 0, "--film", options.film, "0 or more")
    if options.comparison:
        check_name("--comparison", options.comparison)
    if options.out:
        require_writable(options.out, "--out")
    use_threads(options.settings.place)
    with progress_on() as progress:
        with meanwhile(lambda: progress("pages written", 0, 1), LOOK_SECONDS, "report"):
            progress("pages written", 0, 1)
            page, name = _make_page(options, progress)
        path = write_page(page, options.out or _home_folder(options) / "reports" / f"{name}.html")
        progress("pages written", 1, 1)
    megabytes = path.stat().st_size / 1e6
    open_console().print(f"{path}: {megabytes:.1f} MB, open it in a browser", soft_wrap=True, highlight=False)
    return 0


def _make_page(options: Options, progress: Progress) -> "tuple[Page, str]":
    """Return the page that the options ask for, and its name."""
    from raydd.compare.page import comparison_page
    from raydd.place import study_address
    from raydd.report.making import report_of_set, report_of_sweep
    from raydd.report.sets import PageOptions
    from raydd.settings import with_settings
    from raydd.tuning.study import sweep_named

    page_options = PageOptions(options.map, options.film)
    if options.set:
        return report_of_set(options.set, options.settings, page_options, progress), options.set.resolve().name
    if options.comparison:
        return comparison_page(_home_folder(options) / "comparisons" / options.comparison), options.comparison
    name = sweep_named(options.settings.sweep.name, study_address(options.settings.place))
    # Use the sweep's own settings, unless the user gave a file.
    config = with_settings(options.settings, {"sweep.name": name})
    return report_of_sweep(config, page_options, progress, use_stored_settings=options.config is None), name


def _home_folder(options: Options) -> Path:
    from raydd.place import home

    return home(options.settings.place)
