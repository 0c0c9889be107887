import os
import threading
import time

import psutil
import pytest

from raydd import stages
from raydd.config import Config
from raydd.place import open_store
from raydd.settings import with_settings
from trainables.experts import make_experts


def snapshots(config: Config) -> dict[str, bytes]:
    store = open_store(config.place)
    return {name: store.read(name) for name in store.names("experts")}


@pytest.mark.slow
def test_workers_share_the_trajectories_and_make_what_one_process_makes(config, tmp_path):
    shares: list[tuple[int, int]] = []

    def note(work, done, total):
        if work == "experts":
            shares.append((done, total))

    make_experts(config, workers=2, progress=note)
    assert shares[-1] == (4, 4)
    assert stages.missing_experts(config, open_store(config.place)) == []
    alone = with_settings(config, {"place.home": str(tmp_path / "alone")})
    stages.experts(alone, open_store(alone.place))
    assert snapshots(alone) == snapshots(config)


@pytest.mark.slow
def test_a_killed_worker_costs_the_trajectory_in_its_hands(config):
    config = with_settings(config, {"experts.count": 40, "distill.target_epochs": 60, "experts.epochs": 60})
    store = open_store(config.place)
    kept: dict[str, float] = {}

    def kill_one() -> None:
        while not (there := [name for name in store.names("experts") if not name.endswith(".part")]):
            time.sleep(0.05)
        kept.update({name: store.local(name).stat().st_mtime_ns for name in there})
        workers = [child for child in psutil.Process().children(recursive=True) if is_worker(child)]
        os.kill(workers[0].pid, 9)

    stages.features(config, store)
    killer = threading.Thread(target=kill_one)
    killer.start()
    make_experts(config, workers=2)
    killer.join()
    assert stages.missing_experts(config, store) == []
    assert kept
    assert all(store.local(name).stat().st_mtime_ns == then for name, then in kept.items())


def is_worker(process: psutil.Process) -> bool:
    try:
        return "RayTrainWorker" in " ".join(process.cmdline())
    except psutil.Error:
        return False
