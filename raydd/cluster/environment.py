"""The environment that Ray reads when it is imported; imports nothing of it."""

import os
import sys
from collections.abc import Mapping

_QUIET: Mapping[str, str] = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # its C++ writes to the terminal; what fails reaches Python too
    "RAY_AIR_NEW_OUTPUT": "0",  # with verbose=0: no output of Tune's at all
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the study and MLflow keep the results
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the sweep, whose study goes on later
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths of the settings stay right
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # how late Ray Train sees that its workers are done; default 2
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # Tune's own state is never read back
}
_LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # at 0 the one switch that keeps every port on 127.0.0.1
_ONE_MACHINE: Mapping[str, str] = {
    _LOOPBACK: "0",
    "RAY_AUTH_MODE": "disabled",  # safe on loopback; a cluster keeps its tokens
    # The one node is no less alive when the machine is too busy to answer; after Ray's 25 s all would end in silence.
    "RAY_health_check_failure_threshold": "1000",
    "RAY_worker_niceness": "0",  # Ray's 15 starves the trials while anything else runs on the machine
}


def ray_address(address: str) -> str:
    """The cluster to use: the setting `place.ray`; its default, local, yields to $RAY_ADDRESS as Ray's own tools do."""
    return os.environ.get("RAY_ADDRESS", address) if address == "local" else address


def prepare_environment(address: str) -> None:
    """Make Ray quiet, and a Ray of this machine alone closed to others; to be called before Ray is first imported.

    What the user has set stays as it is. Where Ray was imported before, as in a notebook, it is closed all the same.
    """
    settings = {**_QUIET, **(_ONE_MACHINE if address == "local" else {})}
    if os.environ.get(_LOOPBACK, "0") != "0":  # open to other machines, by the user's will: with Ray's own tokens
        settings.pop("RAY_AUTH_MODE", None)
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    if "ray" in sys.modules and address == "local" and os.environ[_LOOPBACK] == "0":
        sys.modules["ray._private.ray_constants"].ENABLE_RAY_CLUSTER = False  # type: ignore[attr-defined]
