"""Draw the pictures of the README and of the documentation from a concluded sweep, such as `raydd demo`'s.

    raydd demo && python tools/draw_pictures.py demo

docs/pairs.png shows synthetic images below those that they started from, docs/report.png the head of the report, taken
by Chromium.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import raydd
from raydd.charts.figures import pairs_picture
from raydd.commands.report import Options, main
from raydd.place import home, open_store
from raydd.report.set_page import final_of
from raydd.sets.read import set_of_record
from raydd.settings import load, with_settings
from raydd.store import Record

DOCS = Path(__file__).parents[1] / "docs"
SIZE = "1200,1500"


def draw_pairs(sweep: str) -> Path:
    """The first pairs of the sweep's best finalist."""
    folder = home(load().place) / "sweeps" / sweep
    config, final = load(folder / "best.yaml"), final_of(folder)
    if final is None:
        sys.exit(f"The sweep {sweep} has no finals. Run it with sweep.finalists 1 or more.")
    store = open_store(config.place)
    stage, name = final["record"].split("/")
    synthetic = set_of_record(Record(store, stage, name, {}, {})).synthetic
    if synthetic.pixels is None:
        sys.exit(f"The sweep {sweep} has no pictures. Run it with distill.space features-then-pixels.")
    path = DOCS / "pairs.png"
    figure = pairs_picture(synthetic, raydd.open(config, store).data.train, synthetic.pixels.shape[-1])
    figure.savefig(path, dpi=110)
    return path


def draw_report(sweep: str) -> Path:
    """The head of the report."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if not chromium:
        sys.exit("There is no chromium. `apt-get install chromium` brings it.")
    path = DOCS / "report.png"
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "report.html"
        main(Options(settings=with_settings(load(), {"sweep.name": sweep}), out=page))
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=20000"]
        command = [chromium, *flags, f"--window-size={SIZE}", f"--screenshot={path}", f"file://{page}"]
        subprocess.run(command, check=True, capture_output=True)
    return path


if __name__ == "__main__":
    name = sys.argv[1] if len(sys.argv) > 1 else "demo"
    print(draw_pairs(name), draw_report(name), sep="\n")
