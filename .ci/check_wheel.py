"""Check the content of a wheel, and that its engine works without Ray, Optuna and MLflow."""

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGES = {"raydd", "trainables", "search_spaces"}
NEEDED = (
    "raydd/py.typed",
    "raydd/sweep.py",
    "raydd/report/templates/page.html.j2",
    "raydd/tracking/retriever.py",
    "raydd/evaluate/published.csv",
    "raydd/data/stamps/stamps.parquet",
    "raydd/data/stamps/NOTICE.md",
    "raydd/data/stamps/GPL-2.0.txt",
    "search_spaces/matching.py",
    "trainables/distill.py",
)
MOST_BYTES = 6_000_000  # the bundled pictures are at most 5 MB

# Runs with the unpacked wheel first on the path. Modules set to None in sys.modules cannot be imported.
ENGINE = """
import pathlib, sys
sys.modules.update(dict.fromkeys(["ray", "optuna", "mlflow"]))
import raydd
from raydd.settings import load
from raydd.store import Store
assert pathlib.Path(raydd.__file__).is_relative_to(sys.argv[1]), raydd.__file__
data = raydd.open(load(), Store(sys.argv[2])).data
assert len(data.train) > 400, len(data.train)
"""


def main(wheel: str) -> None:
    """Raise an AssertionError that names what is wrong with the wheel, if anything is."""
    with zipfile.ZipFile(wheel) as archive, tempfile.TemporaryDirectory() as folder:
        names = archive.namelist()
        top = {name.partition("/")[0] for name in names}
        strange = {name for name in top - PACKAGES if not name.endswith(".dist-info")}
        assert not strange, f"not to be shipped: {sorted(strange)}"
        missing = [name for name in NEEDED if name not in names]
        assert not missing, f"missing: {missing}"
        assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names), "missing: LICENSE"
        size = Path(wheel).stat().st_size
        assert size <= MOST_BYTES, f"{size} bytes, more than {MOST_BYTES}"
        unpacked, store = Path(folder, "wheel"), Path(folder, "store")
        archive.extractall(unpacked)
        subprocess.run(
            [sys.executable, "-c", ENGINE, unpacked, store],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(unpacked)},
            check=True,
        )
    print(f"{Path(wheel).name}: {len(names)} files, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(sys.argv[1])
