"""Watch for the notice that the cloud takes this machine back, and let its trials keep their state.

AWS gives two minutes, Google half a minute. Ray is told to start nothing more here; the trials' processes get SIGTERM,
on which a distillation writes its state to the store and ends, and goes on from there on another machine. The notice is
seen and Ray told of it after about 15 s at most. A trial has 15 s left then on Google, and all of GRACE_SECONDS on AWS.
`spot.py now` does so at once, as the preStop hook of a Kubernetes pod, and returns when the trials have ended.
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
DRAIN_SECONDS = 10.0  # for Ray to hear of it; a trial that is told first would be started again here
GRACE_SECONDS = 60.0  # that a trial takes at most (raydd.cluster.graceful_exit)
NO_ANSWER = (OSError, http.client.HTTPException, ValueError)  # urllib's errors; answers that are no HTTP or no text


def main() -> None:
    """Wait for the notice, unless told `now`, and act on it."""
    now = sys.argv[1:] == ["now"]
    while (seconds := 100 if now else notice()) is None:
        time.sleep(LOOK_SECONDS)
    leave(seconds)


def notice() -> int | None:
    """Seconds that are left, or None while there is no notice."""
    with contextlib.suppress(*NO_ANSWER):  # no notice is a 404
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
    """Have Ray start nothing more here, and its workers end in good order."""
    print(f"this machine goes in {seconds} s", flush=True)
    drain = ["ray", "drain-node", "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot notice"]
    with contextlib.suppress(subprocess.TimeoutExpired):  # a Ray that does not answer: the trials are told all the same
        subprocess.run([*drain, "--deadline-remaining-seconds", str(seconds)], check=False, timeout=DRAIN_SECONDS)
    told = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):  # gone meanwhile
            if "".join(process.cmdline()[:1]).startswith("ray::"):
                process.terminate()
                told.append(process)
    psutil.wait_procs(told, timeout=GRACE_SECONDS)


if __name__ == "__main__":
    main()
