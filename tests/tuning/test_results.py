"""What a sweep says that it found."""

import json

from raydd.tuning import study as studies
from raydd.tuning.results import RESULT, conclude
from raydd.tuning.samplers import renew_sampler


def test_a_sweep_whose_finals_all_failed_has_not_succeeded(config, space, address, tmp_path):
    study = studies.open_study(config, space, address)
    assert not conclude(study, config, [], {}).succeeded
    renew_sampler(study, 0)
    trial = study.ask()
    trial.set_user_attr(studies.SETTINGS, space.settings(trial))
    study.tell(trial, 40.0)
    assert conclude(study, config, [], {}).succeeded
    result = conclude(study, config, [], {0: "ValueError: the disk of node 3"})
    assert not result.succeeded
    result.write(tmp_path)
    assert json.loads((tmp_path / RESULT).read_text())["failed_finals"] == {"0": "ValueError: the disk of node 3"}
