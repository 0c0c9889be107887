import os
import subprocess
import sys
import time

import pytest

from raydd.errors import ConfigError
from raydd.tuning import lease
from raydd.tuning import study as studies


@pytest.fixture
def study(config, space, address):
    return studies.open_study(config, space, address)


def test_a_second_driver_is_refused(study):
    with lease.driving(study), pytest.raises(ConfigError, match=f"by process {os.getpid()} on"), lease.driving(study):
        pass
    with lease.driving(study):
        pass


def test_a_killed_driver_leaves_the_study_free(study, config, address):
    code = f"""
import optuna, os, signal
from raydd.tuning.lease import driving
study = optuna.load_study(study_name={config.sweep.name!r}, storage={address!r})
with driving(study):
    while "driver" not in study.user_attrs:
        pass
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code], check=False)
    assert study.user_attrs["driver"]["pid"]
    with lease.driving(study):
        pass


def test_a_driver_elsewhere_is_given_time(study):
    study.set_user_attr("driver", {"host": "elsewhere", "pid": 1, "begun": 0.0, "beat": time.time() - 50})
    with pytest.raises(ConfigError, match="on elsewhere"), lease.driving(study):
        pass
    study.set_user_attr("driver", {"host": "elsewhere", "pid": 1, "begun": 0.0, "beat": time.time() - 70})
    with lease.driving(study):
        pass
