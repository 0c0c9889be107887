import pytest

from raydd.errors import ConfigError
from raydd.tuning.plan import with_gpu_share


def test_a_given_share_stays(config, with_sweep):
    config = with_sweep(config, gpus=0.25)
    assert with_gpu_share(config, [config], (8, 8)) == config


def test_no_gpu_is_named(ray_here, config, with_sweep):
    config = with_sweep(config, gpus=-1)
    with pytest.raises(ConfigError, match="Ray sees none"):
        with_gpu_share(config, [config], (8, 8))
