"""Watches for the notice that the cloud takes this machine back, and lets trials save their state before it does.

AWS gives notice of two minutes, Google of half a minute. After the notice, Ray is told to start nothing more on this
machine. The trials' processes get SIGTERM: each distillation writes its state to the store and ends, and continues from
there on another machine. Seeing the notice and telling Ray takes about 15 s at most. After that, a trial has 15 s left
on Google, and all of GRACE_SECONDS on AWS.

`spot.py now` does the same at once, without waiting for a notice, and returns when the trials have ended. It is the
preStop hook of a Kubernetes pod.
"""

import contextlib
import http.client
import os
import subprocess
import sys
import time
import urllib.request

import psutil

METADATA = os.environ.get("RAYDD_METADATA", "http://169.254.169.254")  # the same address on both clouds
LOOK_SECONDS = 5.0
DRAIN_SECONDS = 10.0  # for telling Ray first; otherwise Ray would start a stopped trial again on this machine
GRACE_SECONDS = 60.0  # the longest that a trial may take to stop (raydd.cluster.graceful_exit)
NO_ANSWER = (OSError, http.client.HTTPException, ValueError)  # urllib's errors, and answers that are not HTTP or text


def main() -> None:
    """Wait for the notice, unless the argument is `now`, and act on it."""
    now = sys.argv[1:] == ["now"]
    while (seconds := 100 if now else notice()) is None:
        time.sleep(LOOK_SECONDS)
    leave(seconds)


def notice() -> int | None:
    """Return the seconds that are left, or None while there is no notice."""
    with contextlib.suppress(*NO_ANSWER):  # without a notice, the answer is a 404
        token = _ask("/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"}, method="PUT")
        _ask("/latest/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": token})
        return 100
    with contextlib.suppress(*NO_ANSWER):
        if _ask("/computeMetadata/v1/instance/preempted", {"Metadata-Flavor": "Google"}) == "TRUE":
            return 25
    return None


def _ask(path: str, headers: dict[str, str], method: str = "GET") -> str:
    request = urllib.request.Request(METADATA + path, headers=headers, method=method)
    with urllib.request.urlopen(request, timeout=2) as answer:
        return answer.read().decode().strip()


def leave(seconds: int) -> None:
    """Tell Ray to start nothing more on this machine, and let its workers end gracefully."""
    print(f"this machine is taken back in {seconds} s", flush=True)
    drain = ["ray", "drain-node", "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot notice"]
    with contextlib.suppress(subprocess.TimeoutExpired):  # if Ray does not answer, the trials are still told
        subprocess.run([*drain, "--deadline-remaining-seconds", str(seconds)], check=False, timeout=DRAIN_SECONDS)
    told = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # the process has ended in the meantime
            if "".join(process.cmdline()[:1]).startswith("ray::"):
                process.terminate()
                told.append(process)
    psutil.wait_procs(told, timeout=GRACE_SECONDS)


if __name__ == "__main__":
    main()
