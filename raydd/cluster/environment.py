"""Sets the environment variables that Ray reads when it is imported. This module does not import Ray."""

import os
import sys
from collections.abc import Mapping

_QUIET: Mapping[str, str] = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # Ray's C++ code writes to the terminal; failures reach Python anyway
    "RAY_AIR_NEW_OUTPUT": "0",  # together with verbose=0: no output of Tune at all
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the study and MLflow keep the results
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the sweep, which can be continued later
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # so that relative paths in the settings stay valid
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # delay until Ray Train sees that its workers are done; default 2
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # seldom, since Tune's own state is never read back
}
_LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # 0 is the only setting that keeps every port on 127.0.0.1
_ONE_MACHINE: Mapping[str, str] = {
    _LOOPBACK: "0",
    "RAY_AUTH_MODE": "disabled",  # safe on loopback; a cluster keeps its tokens
    # A machine that is too busy to answer is not dead; with Ray's default, everything would end silently after 25 s.
    "RAY_health_check_failure_threshold": "1000",
    "RAY_worker_niceness": "0",  # with Ray's default of 15, trials starve while anything else runs on the machine
}


def ray_address(address: str) -> str:
    """Return the address of the cluster to use: `place.ray`, or if it is local (the default), $RAY_ADDRESS if set."""
    return os.environ.get("RAY_ADDRESS", address) if address == "local" else address


def prepare_environment(address: str) -> None:
    """Make Ray quiet, and close a local Ray to other machines. To be called before Ray is first imported.

    Variables that the user has set are not changed. If Ray was imported before, as in a notebook, a local Ray is still
    closed to other machines.
    """
    settings = {**_QUIET, **(_ONE_MACHINE if address == "local" else {})}
    if os.environ.get(_LOOPBACK, "0") != "0":  # the user has opened Ray to other machines, so keep Ray's tokens
        settings.pop("RAY_AUTH_MODE", None)
    for name, value in settings.items():
        os.environ.setdefault(name, value)
    if "ray" in sys.modules and address == "local" and os.environ[_LOOPBACK] == "0":
        sys.modules["ray._private.ray_constants"].ENABLE_RAY_CLUSTER = False  # type: ignore[attr-defined]
