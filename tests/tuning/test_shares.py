from dataclasses import replace

import pytest

from raydd.config import Config
from raydd.errors import ConfigError
from raydd.tuning.shares import trial_bytes, with_gpu_share


def test_a_given_share_stays(config, with_sweep):
    config = with_sweep(config, gpus=0.25)
    assert with_gpu_share(config, [config], (8, 8)) == config


def test_no_gpu_is_named(ray_here, config, with_sweep):
    config = with_sweep(config, gpus=-1)
    with pytest.raises(ConfigError, match="Ray sees none"):
        with_gpu_share(config, [config], (8, 8))


def test_larger_heads_and_longer_walks_need_more():
    small = Config()
    longer = replace(small, distill=replace(small.distill, student_steps=40))
    assert trial_bytes(small, 1280, 384) < trial_bytes(small, 2304, 768)
    assert trial_bytes(small, 2304, 768) < trial_bytes(longer, 2304, 768)


def test_a_trial_of_the_published_sizes_is_expected_to_need_a_few_gigabytes():
    assert 2e9 < trial_bytes(Config(), 2304, 768) < 6e9
