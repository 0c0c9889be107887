"""What the tab key offers, without a shell; tests/docs/test_completion.py presses it in one."""

import pytest

from raydd.cli import COMMANDS, main
from raydd.cli_completion import NAMES, SCRIPTS, candidates
from raydd.config import Config
from raydd.data.encoders import IMAGE_ENCODERS, TEXT_ENCODERS
from raydd.data.readers import READERS
from raydd.distill.losses import LOSSES
from raydd.distill.methods import METHODS
from raydd.presets import PRESETS
from raydd.settings import flatten
from search_spaces import spaces


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("exp", {"experts", "export"}),
        ("help ev", {"evaluate"}),
        ("--completion ", set(SCRIPTS)),
        ("run --distill.imag", {"--distill.images", "--distill.image-lr", "--distill.image-size"}),
        ("run --distill.images pi", {"pixels"}),
        ("run --distill.student_steps 4 --distill.no-m", {"--distill.no-merged"}),
        ("run --help exp", {"experts"}),
        ("search --i", {"--in"}),
        ("export --to ", {"hf", "hub", "webdataset", "png", "head", "onnx"}),
        ("run --evaluate.baselines random f", {"forgetting", "full"}),
        ("run --distill.method ", set(METHODS)),
        ("run --preset lors", {name for name in PRESETS if name.startswith("lors")}),
        ("sweep --sweep.space ", set(spaces())),
        ("run --config ", set()),
        ("nonsense ", set()),
    ],
)
def test_words_are_offered_in_their_place(typed: str, offered: set[str]):
    assert set(candidates(typed.split(" "), COMMANDS)) == offered


def test_every_setting_is_offered_and_no_sentence():
    found = candidates(["run", "--"], COMMANDS)
    assert {f"--{name.replace('_', '-')}" for name in flatten(Config())} <= set(found)
    assert [word for word in found if " " in word] == []


@pytest.mark.parametrize(
    ("setting", "known"),
    [
        ("data.reader", READERS),
        ("encoders.image", IMAGE_ENCODERS),
        ("encoders.text", TEXT_ENCODERS),
        ("distill.loss", LOSSES),
    ],
)
def test_names_that_are_offered_are_those_of_the_registry(setting: str, known: dict):
    offered = set(NAMES[setting])
    assert offered <= set(known)
    assert {name for name in known if name not in offered} <= {"efficientnet-lite1", "efficientnet-lite2"}


@pytest.mark.parametrize("shell", SCRIPTS)
def test_a_script_is_small(shell: str, capsys: pytest.CaptureFixture[str]):
    assert main(["--completion", shell]) == 0
    assert len(capsys.readouterr().out) < 1000


def test_another_shell_is_refused(capsys: pytest.CaptureFixture[str]):
    assert main(["--completion", "tcsh"]) == 2
    assert "bash, zsh, fish" in capsys.readouterr().err
