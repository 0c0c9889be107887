import time

import pytest
import ray

from raydd.cluster.claims import Claimant, Claims, open_claims


@pytest.fixture
def clock():
    return [0.0]


@pytest.fixture
def ledger(clock):
    return Claims(patience=10.0, clock=lambda: clock[0])


def test_one_holder_at_a_time(ledger):
    assert ledger.take("experts 0", "a")
    assert ledger.take("experts 0", "a")
    assert not ledger.take("experts 0", "b")
    assert ledger.take("experts 1", "b")
    ledger.give("experts 0", "b")  # not b's to give
    assert not ledger.take("experts 0", "b")
    ledger.give("experts 0", "a")
    assert ledger.take("experts 0", "b")


def test_a_silent_holder_loses_its_claim(ledger, clock):
    ledger.take("experts 0", "a")
    clock[0] = 9.0
    ledger.beat("a")
    clock[0] = 18.0
    assert not ledger.take("experts 0", "b")
    clock[0] = 19.5
    assert ledger.take("experts 0", "b")


def test_a_holder_that_leaves_gives_everything_back(ledger):
    ledger.take("experts 0", "a")
    ledger.leave("a")
    assert ledger.take("experts 0", "b")


def test_it_says_what_the_living_are_doing(ledger, clock):
    ledger.beat("sweep x: a", "epochs of experts 3/10")
    ledger.beat("sweep x: b", "distillation steps 5/100")
    ledger.take("experts 0", "sweep x: a")  # a sign of life without a word keeps the last one
    clock[0] = 5.0
    ledger.beat("sweep x: b")
    clock[0] = 12.0
    assert ledger.doing("sweep x") == {"b": "distillation steps 5/100"}
    assert ledger.doing("sweep y") == {}


@pytest.mark.slow
def test_two_processes_share_the_work_and_double_none(ray_here, tmp_path):
    ledger = open_claims(str(tmp_path))

    def work(holder, ledger, folder):
        made = []
        (folder / holder).touch()
        while not all((folder / one).exists() for one in ("a", "b")):  # both there before either begins
            time.sleep(0.01)
        with Claimant(ledger, holder) as claimant:
            for index in range(6):
                with claimant.holding(f"record {index}") as granted:
                    if granted and not (folder / str(index)).exists():
                        time.sleep(0.2)
                        (folder / str(index)).write_text(holder)
                        made.append(index)
        return made

    one, two = ray.get([ray.remote(work).remote(holder, ledger, tmp_path) for holder in ("a", "b")])
    assert sorted(one + two) == list(range(6))
    assert one
    assert two


@pytest.mark.slow
def test_a_killed_holder_is_succeeded(ray_here, tmp_path):
    ledger = ray.remote(num_cpus=0)(Claims).remote(patience=0.5)

    class Holder:
        def take(self, ledger):
            self.claimant = Claimant(ledger, "a", beat_seconds=0.1).__enter__()
            return ray.get(ledger.take.remote("record", "a"))

    holder = ray.remote(num_cpus=0)(Holder).remote()
    assert ray.get(holder.take.remote(ledger))
    time.sleep(1.0)
    assert not ray.get(ledger.take.remote("record", "b"))
    ray.kill(holder)
    with Claimant(ledger, "b") as claimant, claimant.waiting_for("record", wait_seconds=0.1):
        pass


def test_one_ledger_a_store(ray_here, tmp_path):
    assert open_claims(str(tmp_path)) == open_claims(str(tmp_path))


@pytest.mark.slow
def test_waiting_for_the_ledger_hands_no_cores_to_other_tasks(ray_here, tmp_path):
    ledger = open_claims(str(tmp_path))
    cores = int(ray.cluster_resources()["CPU"])

    def work(number, ledger, folder):
        running = folder / f"running {number}"
        running.touch()
        most = 0
        with Claimant(ledger, str(number)) as claimant:
            for turn in range(20):
                with claimant.holding(f"{number} {turn}"):
                    time.sleep(0.01)
                    most = max(most, len(list(folder.glob("running *"))))
        running.unlink()
        return most

    task = ray.remote(num_cpus=cores)(work)  # one takes all of the machine
    assert ray.get([task.remote(number, ledger, tmp_path) for number in range(3)]) == [1, 1, 1]
