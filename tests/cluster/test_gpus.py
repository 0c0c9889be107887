"""GPUs that Ray counts and torch cannot use: what is said, and that nothing is computed on the CPU in their place."""

import contextlib
import io
import json
import os
import subprocess
import sys

import pytest
import ray
import torch
from rich.console import Console

from raydd.cluster import connect, gpus
from raydd.cluster.gpus import Cards, cores_beside, part_of_gpu, share_of_worker, usable_cards, wanted_gpus
from raydd.cluster.growth import Growth
from raydd.config import Config
from raydd.device import FULL
from raydd.errors import ConfigError, PlaceError
from raydd.settings import with_settings
from raydd.tuning import sweeping

if torch.cuda.is_available():
    pytest.skip("the GPUs here are no fakes", allow_module_level=True)


def asking(gpus):
    return with_settings(Config(), {"sweep.gpus": gpus})


def test_auto_is_the_cpu_where_there_is_no_gpu(ray_here):
    assert wanted_gpus(Config(), "local") == 0
    assert wanted_gpus(Config(), "10.0.0.1:6379") == 0
    with share_of_worker(Config(), "auto", 4, "local") as share:
        assert share == 0


def test_auto_is_a_share_where_there_is_one(ray_here, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert wanted_gpus(Config(), "local") == -1
    monkeypatch.setattr(gpus, "growth", lambda: Growth(({"GPU": 8.0},), 1))
    assert wanted_gpus(Config(), "10.0.0.1:6379") == -1  # a machine that is still to come
    assert [wanted_gpus(asking(given), "local") for given in (0.0, 0.5, 2.0)] == [0, 0.5, 2]


def test_trials_on_the_cpu_are_given_no_gpu(ray_here, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    on_cpu = with_settings(Config(), {"place.device": "cpu"})
    assert wanted_gpus(on_cpu, "local") == 0
    with pytest.raises(ConfigError, match=r"sweep\.gpus is 0\.5, but place\.device is cpu"):
        wanted_gpus(with_settings(on_cpu, {"sweep.gpus": 0.5}), "local")


SHARES = [(1, 2, 0.5), (2, 3, 0.5), (3, 2, 1.0), (8, 4, 1.0), (1, 3, 0.3333)]


@pytest.mark.parametrize(("there", "workers", "share"), SHARES)
def test_workers_share_the_gpus_so_that_all_find_room(ray_here, monkeypatch, there, workers, share):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpus, "gpus_now", lambda: there)
    monkeypatch.setattr(gpus, "usable_cards", list)
    with share_of_worker(Config(), "auto", workers, "local") as found:
        assert found == share


@pytest.mark.parametrize(
    ("machines", "share", "cores"),
    [([(16, 1)], 1.0, 15), ([(16, 1)], 0.5, 7), ([(17, 2), (49, 4)], 1.0, 8), ([(4, 4)], 1.0, 1), ([(8, 0)], 0, 1)],
)
def test_cores_are_shared_by_the_gpus_beside_them(monkeypatch, machines, share, cores):
    nodes = [{"Alive": True, "Resources": {"CPU": float(cpus), "GPU": float(gpus)}} for cpus, gpus in machines]
    monkeypatch.setattr(ray, "nodes", lambda: [*nodes, {"Alive": False, "Resources": {"CPU": 1.0, "GPU": 1.0}}])
    assert cores_beside(share) == cores


def test_asking_where_there_is_none_is_a_sentence(ray_here):
    for ask in (usable_cards, share_of_worker(Config(), 1.0, 2, "local").__enter__):
        with pytest.raises(ConfigError, match=r"Ray sees none, and it can start no machine with one\. Set it to auto"):
            ask()


@pytest.fixture
def growing(monkeypatch):
    """A cluster that may start machines with GPUs, within so many seconds."""

    def within(seconds: float) -> None:
        monkeypatch.setattr(gpus, "growth", lambda: Growth(({"CPU": 8.0, "GPU": 1.0},), 1))
        monkeypatch.setattr(gpus, "MACHINE_SECONDS", seconds)

    return within


def test_a_cluster_that_starts_no_machine_in_time_is_a_sentence(ray_here, growing):
    growing(1.0)
    with pytest.raises(ConfigError, match=r"no machine with one came within 1 s\. .*`ray status`"):
        usable_cards()


def test_no_gpu_is_waited_for_once_none_can_come(ray_here, monkeypatch):
    joined = iter([Growth(unknown=True)] * 3)  # machines over ssh, of which the last has joined then
    monkeypatch.setattr(gpus, "growth", lambda: next(joined, Growth()))
    monkeypatch.setattr(gpus, "_LOOK_SECONDS", 0.1)
    with pytest.raises(ConfigError, match=r"it can start no machine with one"):
        usable_cards()
    assert next(joined, None) is None


def answers_of(monkeypatch, *answers):
    """Let machines answer so, one after the other: None is lost while it answers."""
    left, asked = list(answers), []

    def looking(gpus, node_id=""):
        answer = left.pop(0) if len(left) > 1 else left[0]
        asked.append(node_id)
        return ray.remote(num_cpus=0, max_retries=0)(lambda _: answer or os._exit(1))

    monkeypatch.setattr(gpus, "_look_task", looking)
    monkeypatch.setattr(gpus, "_cards_by_node", {})
    monkeypatch.setattr(gpus, "_AGAIN_SECONDS", 0.01)
    return asked


@pytest.mark.slow
def test_a_spot_machine_that_is_lost_while_it_answers_is_asked_for_again(ray_here, growing, monkeypatch):
    growing(60.0)
    good = Cards("a", ("card",), (24,))
    asked = answers_of(monkeypatch, None, good, None, good, good)
    there = iter([{}, {"1": 1}, {}, {"2": 1}])
    monkeypatch.setattr(gpus, "_gpu_nodes", lambda: next(there))
    assert usable_cards() == [good]  # lost once as the first, and once when it was looked at
    assert asked == ["", "", "1", "", "2"]


@pytest.mark.slow
@pytest.mark.parametrize(("there", "told"), [({}, "came within 6 s"), ({"1": 1}, "none that answers")])
def test_machines_that_are_all_lost_are_a_sentence_in_the_end(ray_here, growing, monkeypatch, there, told):
    growing(6.0)
    asked = answers_of(monkeypatch, None)
    monkeypatch.setattr(gpus, "_gpu_nodes", lambda: there)
    with pytest.raises(ConfigError, match=told):
        usable_cards()
    assert len(asked) > 1


@pytest.mark.parametrize("there", [{"1": 1}, {}])
def test_a_machine_that_cannot_look_at_its_gpus_is_named_with_the_reason(ray_here, growing, monkeypatch, there):
    growing(60.0)

    def looking(gpus, node_id=""):
        return ray.remote(num_cpus=0, max_retries=0)(lambda _: int("raydd"))  # as where raydd is not installed

    monkeypatch.setattr(gpus, "_look_task", looking)
    monkeypatch.setattr(gpus, "_cards_by_node", {})
    nodes = iter([there])
    monkeypatch.setattr(gpus, "_gpu_nodes", lambda: next(nodes, {"1": 1}))
    with pytest.raises(ConfigError, match="1 cannot say which GPUs it has: ValueError: invalid literal"):
        usable_cards()


def test_gpus_that_other_work_holds_are_a_sentence_in_the_end(ray_here, monkeypatch):
    def looking(gpus, node_id=""):
        return ray.remote(num_cpus=0, resources={"a card that is free": 1})(lambda _: None)

    monkeypatch.setattr(gpus, "_look_task", looking)
    monkeypatch.setattr(gpus, "_cards_by_node", {})
    monkeypatch.setattr(gpus, "_gpu_nodes", lambda: {"1": 1})
    monkeypatch.setattr(gpus, "BUSY_SECONDS", 0.2)
    monkeypatch.setattr(gpus, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(gpus, "MACHINE_SECONDS", 0.2)
    with pytest.raises(ConfigError, match="Other work may hold them all"):
        usable_cards()


def test_a_machine_on_which_other_work_holds_a_gpu_answers_for_one(ray_here, monkeypatch):
    asked, cards = [], {8: Cards("all free", ("card",) * 8, (24,) * 8), 1: Cards("one in use", ("card",), (24,))}

    def looking(gpus, node_id=""):
        asked.append((node_id, gpus))
        in_use = node_id == "2" and gpus > 1
        resources = {"a card that is free": 1} if in_use else {}
        return ray.remote(num_cpus=0, resources=resources)(lambda count: cards[count])

    monkeypatch.setattr(gpus, "_look_task", looking)
    monkeypatch.setattr(gpus, "_cards_by_node", {})
    monkeypatch.setattr(gpus, "_gpu_nodes", lambda: {"1": 8, "2": 8})
    monkeypatch.setattr(gpus, "BUSY_SECONDS", 5.0)
    assert usable_cards() == [cards[8], cards[1]]
    assert asked[:2] == [("1", 8), ("2", 8)]
    assert asked[2:] == [("2", 0.0001)]


@pytest.mark.parametrize(("share", "words"), [(1.0, ["waiting for a machine with a GPU"]), (0.0, [])])
def test_a_sweep_says_that_it_waits_for_a_gpu(monkeypatch, share, words):
    console, shown = Console(file=io.StringIO()), []

    def usable(base, console, *, dry_run):
        shown.extend(console.file.getvalue().splitlines()[1:])  # after the line on starting Ray
        return contextlib.nullcontext([])

    monkeypatch.setattr(sweeping, "cluster", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(sweeping, "wanted_gpus", lambda config, address: share)
    monkeypatch.setattr(sweeping, "settled", lambda base, cpus, gpus: base)
    monkeypatch.setattr(sweeping, "usable_gpus", usable)
    with contextlib.ExitStack() as stack:
        sweeping._join_cluster(Config(), "local", stack, console, dry_run=False)
    assert shown == words


IN_USE = """
from raydd.cluster.environment import prepare_environment
prepare_environment("local")
import time
import ray
from raydd.cluster import gpus

ray.init(address="local", num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False,
         object_store_memory=10**8, logging_level=50)
holder = ray.remote(num_gpus=1, num_cpus=0)(gpus._Holder).remote()
ray.get(holder.__ray_ready__.remote())
gpus.BUSY_SECONDS, gpus.MACHINE_SECONDS = 1.0, 0.0
machines, _ = gpus._query_cards(gpus._gpu_nodes())
print(len(machines))
"""


@pytest.mark.slow
def test_ray_lets_a_machine_answer_while_other_work_holds_one_of_its_gpus():
    done = subprocess.run([sys.executable, "-c", IN_USE], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["1"]


def test_a_machine_whose_gpus_torch_cannot_use_is_left_out_and_named(ray_here, monkeypatch):
    good, bad = Cards("a", ("card",), (24,)), Cards("b", (), (), "b cannot compute on the device cuda:0")
    monkeypatch.setattr(gpus, "_gpu_nodes", lambda: {"1": 1, "2": 1})
    monkeypatch.setattr(gpus, "_cards_by_node", {"1": good, "2": bad})
    assert usable_cards() == [good]
    assert gpus.faults() == [bad.fault]
    monkeypatch.setattr(gpus, "_gpu_nodes", lambda: {"2": 1})
    with pytest.raises(ConfigError, match=r"^b cannot compute"):
        usable_cards()


def test_a_card_that_is_full_is_asked_again_unless_raydd_holds_it(ray_here, monkeypatch):
    def full(place):
        raise PlaceError(f"The GPU {place.device} of a{FULL}. Wait.")

    with monkeypatch.context() as patch:
        patch.setattr(gpus, "device_of", full)
        found = gpus.look(1)
    assert found.fault == f"The GPU cuda:0 of a{FULL}. Wait."
    good = Cards("a", ("card",), (24,))
    asked = answers_of(monkeypatch, found, good)
    monkeypatch.setattr(gpus, "_gpu_nodes", lambda: {"1": 1})
    with pytest.raises(ConfigError, match=r"^The GPU cuda:0 of a is full"):
        usable_cards()
    monkeypatch.setattr(gpus, "_holders", {"1": None})  # asked now, it would not answer
    with pytest.raises(ConfigError, match="is full"):
        usable_cards()
    gpus._holders.clear()
    assert usable_cards() == usable_cards() == [good]
    assert asked == ["1", "1"]


HELD = """
from raydd.cluster.environment import prepare_environment
prepare_environment("local")
import time
import ray
from raydd.cluster import connect, gpus

ray.init(address="local", num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False,
         object_store_memory=10**8, logging_level=50)
(node,) = gpus._gpu_nodes()
def free(wanted):
    end = time.monotonic() + 60
    while ray.available_resources().get("GPU", 0.0) != wanted:
        assert time.monotonic() < end
        time.sleep(0.1)
    return connect.slots_now(1.0, 0.5, gpus.held()), connect.slots_now(1.0, 0.0, gpus.held())
gpus._cards_by_node[node] = gpus.Cards("a", ("card",) * 2, (24,) * 2)
with gpus.faulty_held():
    print(*free(2.0))
gpus._cards_by_node[node] = gpus.Cards("a", (), (), "a cannot compute on the device cuda:0")
with gpus.faulty_held():
    print(*free(0.0))
print(*free(2.0))
"""


@pytest.mark.slow
def test_the_gpus_of_a_machine_that_is_left_out_are_no_trial_s():
    done = subprocess.run([sys.executable, "-c", HELD], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["2 2", "0 2", "2 2"]


@pytest.mark.parametrize("count", [1, 2, 3, 6, 7, 49, 100])
def test_ray_finds_room_for_as_many_parts_as_there_are(count):
    units = round(part_of_gpu(count) * 10_000)
    assert units * count <= 10_000
    assert connect._count_fitting({"CPU": 1000.0, "GPU": 1.0}, 1.0, part_of_gpu(count)) == count


def test_room_is_counted_by_machine_and_by_card(ray_here, monkeypatch):
    nodes = [{"Alive": True, "Resources": {"CPU": 3.0, "GPU": 2.0}}, {"Alive": True, "Resources": {"CPU": 3.0}}]
    monkeypatch.setattr(connect.ray, "nodes", lambda: [*nodes, {"Alive": False, "Resources": {"CPU": 64.0}}])
    assert connect.slots_now(2.0, 0.0) == 2  # and not three of six cores
    assert connect.slots_now(1.0, 0.6) == 2  # one a card, and not three of two cards
    assert connect.slots_now(1.0, 2.0) == 1
    monkeypatch.setattr(connect.ray, "cluster_resources", lambda: {"CPU": 6.0, "GPU": 2.0})
    with pytest.raises(ConfigError, match="6 CPUs and 2 GPUs, 3 and 2 at most on one machine that runs or may"):
        connect.require_room(4.0, 0.0)


FAKED = """
import json, sys
from raydd.cluster.environment import prepare_environment
prepare_environment("local")
import ray
import raydd
from raydd.cluster.gpus import usable_cards
from raydd.cluster.worker_settings import for_workers, settled
from raydd.config import Config
from raydd.errors import ConfigError
from raydd.device import device_of
from raydd.settings import with_settings
from raydd.sweep import sweep

config = with_settings(Config(), json.loads(sys.argv[1]))
ray.init(address="local", num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False,
         object_store_memory=10**8, logging_level=50)
place = for_workers(settled(config, cpus=1, gpus=0.5), 0.5).place
assert place.device == "cuda"
def on(place):
    try:
        return device_of(place)
    except ConfigError as error:
        return str(error)
told = [ray.get(ray.remote(num_gpus=0.5)(on).remote(place))]
try:
    usable_cards()
except ConfigError as error:
    told.append(str(error))
from raydd.tuning.sweeping import run_sweep
from raydd.terminal.console import open_console
from trainables.features import make_features
for call in (lambda: run_sweep(config, "local", dry_run=False, console=open_console()),
             lambda: make_features(raydd.open(config), workers=2, gpus=1.0)):
    try:
        call()
    except ConfigError as error:
        told.append(str(error))
print(json.dumps(told))
"""


@pytest.mark.slow
def test_a_worker_whose_gpu_torch_cannot_use_names_driver_and_wheel_and_never_takes_the_cpu(tiny_data, tmp_path):
    space = tmp_path / "own.py"
    space.write_text("def space(trial):\n    return {}\n")
    settings = {
        "data.reader": "flat-json",
        "data.root": str(tiny_data),
        "distill.pairs": 12,
        "distill.minibatch": 12,
        "sweep.space": str(space) + ":space",
        "sweep.gpus": -1.0,
        "place.home": str(tmp_path / "home"),
        "place.mlflow": "none",
    }
    done = subprocess.run(
        [sys.executable, "-c", FAKED, json.dumps(settings)], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert len(told) == 4
    for text in told:
        assert "cannot compute on the device cuda" in text
        assert f"torch {torch.__version__} is a wheel" in text
        assert "driver" in text
    assert not list((tmp_path / "home" / "store").glob("features*/**/*.safetensors"))
