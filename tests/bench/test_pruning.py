"""The experiment on pruners: that it sees what they save, and what a bad one loses."""

from bench.pruning import Options, main, sweep


def test_no_pruner_takes_all_steps():
    assert sweep("none", 0, Options(trials=8))[0] == 1.0


def test_sweeps_differ_by_their_seed_alone():
    options = Options(trials=30, far=5)
    assert sweep("asha", 1, options) == sweep("asha", 1, options) != sweep("asha", 2, options)


def test_what_is_stopped_is_saved_and_the_best_is_found():
    options = Options(trials=60, far=10)
    share, best = sweep("asha", 0, options)
    assert share < 0.5
    assert best > 0


def test_the_table(capsys):
    assert main(Options(pruners=("none", "asha"), trials=10, far=5, repeats=2)) == 0
    assert "asha" in capsys.readouterr().out
