import pytest

from raydd.tuning.slot_time import Stay, slot_seconds


@pytest.mark.parametrize(
    ("stays", "seconds"),
    [
        ([], 0.0),
        ([("", 0, 10), ("", 0, 10)], 20.0),  # each has its own slot
        ([("a", 0, 10), ("a", 0, 10)], 10.0),
        ([("a", 5, 12), ("a", 0, 10), ("a", 2, 3), ("a", 20, 21)], 13.0),
        ([("a", 0, 10), ("b", 0, 10), ("", 3, 4)], 21.0),
    ],
)
def test_the_time_in_which_trials_share_a_slot_counts_once(stays, seconds):
    assert slot_seconds(Stay(*stay) for stay in stays) == seconds
