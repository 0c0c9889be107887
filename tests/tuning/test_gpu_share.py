import pytest

from raydd.cluster.gpus import Cards
from raydd.cost.bytes import share_bytes
from raydd.errors import ConfigError
from raydd.settings import with_settings
from raydd.tuning.finals import share_of_final
from raydd.tuning.plan import large_enough, with_gpu_share

WIDTHS = (1280, 384)


def cards(*gigabytes: float) -> list[Cards]:
    return [Cards(f"node {size}", ("card",), (int(size * 1e9),)) for size in gigabytes]


def test_a_given_share_stays(config, with_sweep):
    config = with_sweep(config, gpus=0.25)
    assert with_gpu_share(config, [config], WIDTHS, cards(24)) == config


def test_a_plan_before_there_is_a_gpu_leaves_the_share_open(config, with_sweep):
    config = with_sweep(config, gpus=-1)
    assert with_gpu_share(config, [config], WIDTHS, []) == config


def test_a_slot_has_a_whole_gpu(config, with_sweep):
    config = with_settings(with_sweep(config, gpus=-1), {"distill.images": "features"})
    assert with_gpu_share(config, [config], WIDTHS, cards(24)).sweep.gpus == 1


def test_a_slot_holds_no_more_trials_than_its_gpu(config, with_sweep):
    config = with_settings(with_sweep(config, gpus=-1, together=16), {"distill.images": "features"})
    larger = with_settings(config, {"distill.student_steps": 64, "experts.width": 2304})
    of = {size: with_gpu_share(config, [config, larger], WIDTHS, cards(size)).sweep for size in (32, 64, 120)}
    assert 1 <= of[32].together < of[64].together < of[120].together <= 16
    assert {sweep.gpus for sweep in of.values()} == {1.0}
    assert with_gpu_share(config, [config], WIDTHS, cards(80)).sweep.together == 16


def test_the_smallest_of_mixed_cards_decides_the_share_of_its_largest_trial(config, with_sweep):
    config = with_sweep(config, gpus=-1, together=1)
    larger = with_settings(config, {"distill.student_steps": 64})
    need = share_bytes(larger, *WIDTHS)
    assert need > share_bytes(config, *WIDTHS)
    shares = [
        with_gpu_share(config, [config, larger], WIDTHS, machines).sweep.gpus
        for machines in (cards(7.5 * need / 1e9), cards(80 * need / 1e9, 7.5 * need / 1e9))
    ]
    assert shares == [0.1428, 0.1428]  # a seventh, rounded so that Ray finds room for seven


def test_a_card_that_holds_no_trial_is_left_out_and_refused_if_there_is_no_other(config):
    assert large_enough([config], WIDTHS, cards(80, 0.1)) == cards(80)
    assert large_enough([config], None, cards(80, 0.1)) == cards(80, 0.1)  # before there are features
    with pytest.raises(ConfigError, match=r"and the GPU has 0\.2 GB"):
        large_enough([config], WIDTHS, cards(0.2, 0.1))


@pytest.mark.parametrize(
    ("images", "given", "share"),
    [("pixels", 0.25, 1.0), ("features-then-pixels", 0.5, 1.0), ("features", 0.25, 0.25), ("pixels", 0.0, 0.0)],
)
def test_a_final_with_pixels_has_a_gpu_of_its_own(config, with_sweep, images, given, share):
    assert share_of_final(with_settings(with_sweep(config, gpus=given), {"distill.images": images})) == share
