import os
from pathlib import Path

import hypothesis
import pytest
from jaxtyping import install_import_hook
from tiny_pictures import write_pictures

if int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) > 1:  # before torch is imported, whose threads would compete
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Before they are imported: each tensor has the shape that the signature says.
ROOMS = sorted((Path(__file__).parents[1] / "raydd").glob("*/__init__.py"))
install_import_hook([f"raydd.{room.parent.name}" for room in ROOMS], "shapes_held.held")

from raydd.store import Store  # noqa: E402

# How long an example takes says more about what else the machine does than about the code.
hypothesis.settings.register_profile("raydd", deadline=None)
hypothesis.settings.load_profile("raydd")

# Their tests mostly wait for processes of Ray and MLflow.
WAITING = {"cluster", "ray", "tracking", "tuning"}


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give one of two pytest processes (`-n 2 --dist loadgroup`) the tests that wait, and keep a file together."""
    for item in items:
        room = item.path.relative_to(Path(__file__).parent).parts[0]
        item.add_marker(pytest.mark.xdist_group("waiting" if room in WAITING else str(item.path)))


SHARED_DATA = Path(os.environ.get("RAYDD_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture
def shared_data() -> Path:
    """The folder of real photographs and captions, for tests marked shared_data."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"there is no folder {SHARED_DATA}; RAYDD_DATA names another")
    return SHARED_DATA


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def tiny_data(tmp_path: Path) -> Path:
    """A flat-json data set named tiny: 12 train, 4 val and 4 test PNGs of 32 x 32 pixels, two captions each."""
    return write_pictures(tmp_path / "tiny", train=12, val=4, test=4)
