"""A process that is told to end waits for its work, which keeps its state."""

import signal
import subprocess
import sys
import time

SCRIPT = """
import signal, sys, threading, time
from raydd.cluster.graceful_exit import exit_waits

signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # as a Ray worker does, in its main thread

def work():
    with exit_waits(grace=20) as told:
        print("working", flush=True)
        while not told():
            time.sleep(0.05)
        time.sleep(0.5)
        print("state kept", flush=True)

threading.Thread(target=work, daemon=True).start()
time.sleep(60)
"""


def test_the_exit_waits_for_the_work():
    process = subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "working\n"
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    assert process.stdout.read() == "state kept\n"
    assert process.wait(20) == 1
    assert time.monotonic() - began < 15
