import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import psutil
import pytest
import torch
from nodes import cluster_of
from safetensors.torch import load_file

import raydd
from raydd.cli import main
from raydd.cluster.connect import cluster, forget_interrupt
from raydd.config import Config
from raydd.distill.experts import Experts
from raydd.errors import NonFiniteError
from raydd.place import home, open_store
from raydd.settings import flatten, load, with_settings
from trainables import experts as experts_by_train
from trainables.experts import _jobs, _progress_reported, _Remaining, make_experts


def snapshots(config: Config) -> dict[str, dict[str, torch.Tensor]]:
    """The tensors of every snapshot by its file's name."""
    store = open_store(config.place)
    return {name: load_file(store.local(name)) for name in store.names("experts")}


def assert_same_experts(made: dict[str, dict[str, torch.Tensor]], expected: dict[str, dict[str, torch.Tensor]]) -> None:
    """Equal but for rounding: a process of other threads sums in another order. Other seeds are 1.4 apart."""
    assert made.keys() == expected.keys()
    for name, parts in expected.items():
        for side, value in parts.items():
            value, apart = value.double(), made[name][side].double() - value.double()
            assert apart.norm() < 1e-3 * value.norm(), (name, side)


@pytest.mark.slow
def test_workers_share_the_trajectories_and_make_what_one_process_makes(config, tmp_path):
    shares: list[tuple[int, int]] = []

    def note(work, done, total):
        if work == "experts":
            shares.append((done, total))

    make_experts([raydd.open(config, progress=note)], workers=2)
    assert shares[-1] == (4, 4)
    assert raydd.open(config, open_store(config.place)).missing_experts == []
    alone = with_settings(config, {"place.home": str(tmp_path / "alone")})
    raydd.open(alone, open_store(alone.place)).experts()
    assert_same_experts(snapshots(alone), snapshots(config))


def test_trials_that_share_experts_have_as_many_made_as_the_one_that_reads_most(config):
    works = [raydd.open(with_settings(config, {"experts.count": count})) for count in (2, 5, 4)]
    assert [job.expert for job in _jobs(works, gpus=0)] == [0, 1, 2, 3, 4]


def test_the_driver_asks_a_store_only_for_what_was_missing_and_a_bucket_less_often(config, monkeypatch):
    asked, complete, shown, pauses = [], set(), [], []

    def has(self, expert, epoch):
        asked.append(expert)
        return epoch == 0 or expert in complete

    @contextlib.contextmanager
    def once(report, pause, name):
        pauses.append(pause)
        report()
        yield

    monkeypatch.setattr(Experts, "has", has)
    monkeypatch.setattr(experts_by_train, "meanwhile", once)
    work = raydd.open(config, progress=lambda *given: shown.append(given))
    remaining = _Remaining([work])
    assert len(remaining) == 4
    complete |= {0, 2}
    with _progress_reported(work, remaining):
        complete.add(3)
        asked.clear()
    assert asked == [1, 3, 3]  # the last snapshot of each, and the others of 3, which is complete
    assert shown[-2:] == [("experts", 2, 4), ("experts", 3, 4)]
    monkeypatch.setattr(work.store, "folder", None)
    with _progress_reported(work, remaining):
        pass
    assert pauses == [1.0, 15.0]


def test_a_worker_uses_no_more_of_a_gpu_than_its_share(config, monkeypatch):
    """A stand-in for Ray Train runs the function of a worker here, which has nothing to train."""
    shares = []

    class Trainer:
        def __init__(self, work, train_loop_config, **_):
            self.fit = lambda: work(train_loop_config)

    context = SimpleNamespace(get_world_rank=lambda: 1, get_world_size=lambda: 2)
    monkeypatch.setattr("ray.train.v2.api.data_parallel_trainer.DataParallelTrainer", Trainer)
    monkeypatch.setattr("ray.train.get_context", lambda: context)
    monkeypatch.setattr("ray.train.report", lambda found: shares.append(found["experts"]))
    monkeypatch.setattr("raydd.cluster.connect.cluster", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr("raydd.cluster.gpus.share_of_worker", lambda *_: contextlib.nullcontext(0.25))
    monkeypatch.setattr("raydd.cluster.worker_settings.cores_beside", lambda _: 1)
    monkeypatch.setattr(experts_by_train, "use_gpu_share", shares.append)
    monkeypatch.setattr(experts_by_train, "_open_diverged", lambda: None)
    monkeypatch.setattr(experts_by_train, "_require_none_diverged", lambda _: None)
    make_experts([raydd.open(with_settings(config, {"experts.count": 1}))], workers=4, gpus=0.25)
    assert shares == [0.25, 0]


@pytest.mark.slow
def test_experts_that_diverge_end_with_the_reason_once_all_other_recipes_are_trained(config):
    diverging, sound = with_settings(config, {"experts.lr": 1e6}), config
    work = raydd.open(diverging)
    with pytest.raises(NonFiniteError, match=f"^{work.experts_record.folder}: Expert "):
        make_experts([work, raydd.open(sound)], workers=2)
    assert raydd.open(sound, open_store(sound.place)).missing_experts == []


@pytest.mark.slow
def test_experts_that_diverge_end_with_the_reason(config, capsys):
    given = {name: value for name, value in flatten(config).items() if value != flatten(load())[name]}
    flags = [part for name, value in {**given, "experts.lr": 1e6}.items() for part in (f"--{name}", str(value))]
    assert main(["experts", "--workers", "2", *flags]) == 2
    errors = capsys.readouterr().err
    assert re.search(r"^raydd: .*: Expert \d .* Lower experts\.lr\.$", errors, re.MULTILINE), errors
    assert "Traceback" not in errors


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

    raydd.open(config, store).prepare()
    killer = threading.Thread(target=kill_one)
    killer.start()
    make_experts([raydd.open(config)], workers=2)
    killer.join()
    assert raydd.open(config, store).missing_experts == []
    assert kept
    assert all(store.local(name).stat().st_mtime_ns == then for name, then in kept.items())


@pytest.mark.slow
def test_ctrl_c_ends_a_command_while_workers_train_experts_and_afterwards(config):
    longer = with_settings(config, {"experts.count": 40, "distill.target_epochs": 60, "experts.epochs": 60})
    store = open_store(config.place)

    def interrupt() -> None:
        while not store.names("experts"):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    raydd.open(config, store).prepare()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # as at a terminal
    try:
        with cluster("local", home(config.place)):
            thread = threading.Thread(target=interrupt)
            thread.start()
            with pytest.raises(KeyboardInterrupt):
                make_experts([raydd.open(longer)], workers=2)
            thread.join()
            forget_interrupt()
        with cluster("local", home(config.place)):
            make_experts([raydd.open(config)], workers=2)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.slow
def test_two_nodes_share_the_trajectories_and_make_what_one_process_makes(config, tmp_path):
    with cluster_of(tmp_path, nodes=2) as (cluster, nodes):
        config = with_settings(config, {"experts.width": 256, "place.ray": cluster.address})
        settings = {name: value for name, value in flatten(config).items() if value != flatten(load())[name]}
        driver = subprocess.Popen([sys.executable, "-c", DRIVER, json.dumps(settings)])
        written: dict[int, int] = {node.pid: 0 for node in nodes}  # bytes that a node's Ray Train worker wrote
        while driver.poll() is None:
            time.sleep(0.05)
            for node in nodes:
                with contextlib.suppress(psutil.Error):  # the worker has just ended
                    for worker in cluster.processes(node, "RayTrainWorker"):
                        written[node.pid] = max(written[node.pid], worker.io_counters().write_chars)
        assert driver.returncode == 0
    store = open_store(config.place)
    of_an_expert = sum(len(store.read(name)) for name in store.names("experts")) / 4
    print(f"bytes written by each node's worker: {list(written.values())}; an expert has {of_an_expert:.0f}")
    assert min(written.values()) > of_an_expert
    alone = with_settings(config, {"place.home": str(tmp_path / "alone")})
    raydd.open(alone, open_store(alone.place)).experts()
    assert len(snapshots(alone)) == 4
    assert_same_experts(snapshots(alone), snapshots(config))


DRIVER = """
import json, sys
import raydd
from raydd.settings import load
from trainables.experts import make_experts

make_experts([raydd.open(load(settings=json.loads(sys.argv[1])))], workers=2)
"""


def is_worker(process: psutil.Process) -> bool:
    try:
        return "RayTrainWorker" in " ".join(process.cmdline())
    except psutil.Error:
        return False
