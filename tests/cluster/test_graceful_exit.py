"""A process that is told to end waits for its work, which keeps its state."""

import signal
import subprocess
import sys

import pytest

WORKER = """
import signal, sys, threading, time
from raydd.cluster.graceful_exit import exit_waits, heed_notice, stop_requested

signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))  # as a Ray worker does, in its main thread

def work():
    with exit_waits():
        print("working", flush=True)
        while not stop_requested():
            time.sleep(0.05)
        time.sleep(0.5)
        print("state kept", flush=True)

"""
RUNS = {
    "in the main thread": "work(); time.sleep(60)",
    "in a thread": "heed_notice(); threading.Thread(target=work, daemon=True).start(); time.sleep(60)",
}


def running(script: str) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", WORKER + script], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "working\n"
    return process


@pytest.mark.parametrize("signals", [1, 2])
@pytest.mark.parametrize("where", RUNS)
def test_the_exit_waits_for_the_work(where, signals):
    process = running(RUNS[where])
    for _ in range(signals):
        process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=20) == ("state kept\n", None)
    assert process.returncode == 7


def test_without_work_the_process_ends_at_once():
    process = running("with exit_waits(): pass\nprint('working', flush=True); time.sleep(60)")
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=20) == ("", None)
    assert process.returncode == 7
