"""What training asks of a GPU is within what the design allows, at narrow heads: counts do not depend on widths."""

import pytest

from bench.asked import Options, counts_of, main


@pytest.mark.slow
def test_the_counts_of_training_on_a_gpu(capsys) -> None:
    found = counts_of(48)
    for what, (counts, units) in found.items():
        if what == "feature step of the engine, on a CPU":
            assert counts.waits["tolist"] == 1
            continue
        assert counts.copied_bytes < 5_000 * units, what
        assert not counts.waits.total(), what
        if "16 together" in what:
            assert counts.total <= 500 * units
    main(Options(width=48))
    assert "feature step of a trial, 16 together" in capsys.readouterr().out
