import importlib
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from written_sets import broken, folder_of, saved

from raydd.cli import COMMANDS, main, parse
from raydd.cli_help import EXAMPLES, MATTER, docs_of_fields
from raydd.config import Config
from raydd.presets import PRESETS
from raydd.settings import flatten, load

SETTINGS_FILE = """\
data: {reader: flat-json, root: DIR, name: flickr8k}
encoders: {image: efficientnet-lite0, text: minilm}
distill: {method: repblend, pairs: 99, images: features-then-pixels}    # or pixels, features
evaluate: {split: test, seeds: 5, baselines: [random, full]}
"""


@pytest.fixture(autouse=True)
def wide_terminal(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "300")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "flickr8k.yaml"
    path.write_text(SETTINGS_FILE)
    return path


def settings_printed(capsys: pytest.CaptureFixture[str], tmp_path: Path, *arguments: object) -> Config:
    """The settings that `raydd run` would use, by way of --print_config and back."""
    assert main(["run", *map(str, arguments), "--print_config"]) == 0
    printed = tmp_path / "printed.yaml"
    printed.write_text(capsys.readouterr().out)
    return load(printed)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What `raydd run` says of a mistake, which must be short, on standard error, and end with exit code 2."""
    assert main(["run", *map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    return err


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]])
def test_the_overview_names_every_command(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in COMMANDS)


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]):
    assert main(["--version"]) == 0
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_the_full_help_lists_every_setting_by_the_flag_that_sets_it_and_no_other(capsys: pytest.CaptureFixture[str]):
    assert main(["run", "--help-all"]) == 0
    shown = capsys.readouterr().out
    flags = {flag.replace("-", "_") for flag in re.findall(r"(?m)^ {2}--([\w.-]+)", shown)}
    assert flags == {*flatten(Config()), "config", "preset", "print_config", "debug", "json"}
    assert not re.findall(r"--[\w.-]*_|default: None", shown)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_the_help_of_a_command_fits_on_a_screen(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("COLUMNS", "80")
    assert main([command, "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"usage: raydd {command} ")
    assert len(lines) < 50
    assert max(map(len, lines)) <= 80
    assert len(MATTER[command]) <= 10
    shown = "\n".join(lines)
    assert all(f"  --{name.replace('_', '-')} " in shown for name in MATTER[command])
    assert not re.findall(r"--[\w.-]*_|None", shown)
    assert f"  {EXAMPLES[command]}" in lines
    assert main(["help", command]) == 0
    assert capsys.readouterr().out.splitlines() == lines


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_the_example_in_a_help_is_a_command_that_is_read(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name in ("flickr8k", "coco"):
        (tmp_path / f"{name}.yaml").write_text(SETTINGS_FILE)
    words = shlex.split(EXAMPLES[command].partition("#")[0])
    assert words[:2] == ["raydd", command]
    options = importlib.import_module(f"raydd.commands.{command}").Options
    without = [word for word in words[2:] if word not in ("--set", "FOLDER")]  # a set has to be there
    assert parse(options, without, prog="raydd", description="").settings


def test_help_shows_one_section_with_the_values_that_would_be_used(file: Path, capsys: pytest.CaptureFixture[str]):
    file.write_text("distill: {pairs: 77}\n")
    assert main(["run", "--help", "distill", "--config", str(file), "--distill.method", "lors"]) == 0
    shown = capsys.readouterr().out
    names = [name.partition(".")[2] for name in flatten(Config()) if name.startswith("distill.")]
    assert re.findall(r"(?m)^  --distill\.([\w-]+)", shown) == [name.replace("_", "-") for name in names]
    assert all(f"[{value}]" in shown for value in ("lors", "wbce", 77))
    assert main(["help", "run", "distil"]) == 2
    assert "Did you mean 'distill'?" in capsys.readouterr().err


def test_a_command_s_own_options_are_never_cut(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "80")
    for command in COMMANDS:
        main([command, "--help"])
        assert "..." not in capsys.readouterr().out.partition("Options:")[2].partition("Settings that")[0], command


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_the_help_of_an_option_gives_its_default(command: str):
    options = importlib.import_module(f"raydd.commands.{command}").Options
    texts = docs_of_fields(options)
    for item in fields(options):
        if item.default and isinstance(item.default, str | float | int | Path) and item.default != Path():
            shown = f"{item.default:g}" if isinstance(item.default, float) else str(item.default)
            assert f"[{shown}]." in texts[item.name], item.name


def test_help_tells_a_list_from_a_choice_and_how_a_switch_is_turned_off(capsys: pytest.CaptureFixture[str]):
    main(["help", "run", "evaluate"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "Any of random, herding" in shown
    assert "One of val, test" in shown
    main(["help", "run", "distill"])
    assert "[on; --distill.no-fit-rates for off]" in " ".join(capsys.readouterr().out.split())


def test_help_lists_the_presets(capsys: pytest.CaptureFixture[str]):
    assert main(["help", "run", "preset"]) == 0
    shown = capsys.readouterr().out
    assert set(PRESETS) <= set(re.findall(r"^  ([\w-]+)(?= |$)", shown, re.MULTILINE))


@pytest.mark.parametrize("topic", ["preset", "pixels"])
def test_help_of_a_section_needs_no_command(topic: str, capsys: pytest.CaptureFixture[str]):
    assert main(["help", "run", topic]) == main(["help", topic]) == 0
    of_command, alone = capsys.readouterr().out.strip().split(f"\n{topic}: ")
    assert f"{topic}: {alone}" == of_command.strip()


def test_help_needs_neither_torch_nor_ray():
    code = "import sys; from raydd.cli import main; main(['sweep', '--help']); print({'torch', 'ray'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("set()\n")


def test_a_file_of_settings_is_read(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    config = settings_printed(capsys, tmp_path, "--config", file)
    assert (config.data.reader, config.data.root, config.data.name) == ("flat-json", "DIR", "flickr8k")
    assert (config.distill.pairs, config.distill.images) == (99, "features-then-pixels")
    assert (config.evaluate.seeds, config.evaluate.baselines) == (5, ("random", "full"))


def test_flags_win_over_the_file_and_the_file_over_the_preset(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    config = settings_printed(
        capsys, tmp_path, "--preset", "repblend-flickr30k-200", "--config", file, "--evaluate.seeds", 3
    )
    assert config.evaluate.seeds == 3
    assert config.distill.pairs == 99
    assert config.distill.optimizer == "sgd"


def test_settings_of_a_set_that_this_version_lacks_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    record = saved(tmp_path)
    command = ["evaluate", "--set", str(folder_of(record)), "--print_config"]
    assert main(command) == 0
    printed, said = capsys.readouterr()
    assert said == ""
    facts = record.read_json("manifest.json")["facts"]
    broken(record, {**facts, "settings": {**facts["settings"], "distill.colour": 3, "distill.\x1b[2J": 4}})
    assert main(command) == 0
    assert capsys.readouterr() == (
        printed,
        "raydd: note: this version lacks some settings of the set and leaves them out: distill.\\x1b[2J, "
        f"distill.colour. Version {facts['raydd']}, which made the set, has them.\n",
    )


def test_a_flag_s_path_may_name_a_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setenv("PICTURES", str(tmp_path))
    assert settings_printed(capsys, tmp_path, "--data.root", "$PICTURES/x").data.root == f"{tmp_path}/x"
    monkeypatch.delenv("PICTURES")
    assert "environment variable PICTURES is not set" in refusal(capsys, "--data.root", "$PICTURES/x")


def test_a_boolean_is_a_pair_of_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert settings_printed(capsys, tmp_path, "--distill.merged").distill.merged
    assert not settings_printed(capsys, tmp_path, "--distill.no_fit_rates").distill.fit_rates


def test_hyphens_and_underscores_are_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert settings_printed(capsys, tmp_path, "--distill.image-lr", "1e-2").distill.image_lr == 0.01


def test_it_is_known_which_settings_flags_give(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text("distill: {steps: 50}\n")
    options = importlib.import_module("raydd.commands.sweep").Options
    flags = ["--sweep.plateau-gain", "1", "--distill.rank=4", "--sweep.no-first", "--preset", "plain-pixels"]
    found = parse(options, ["--config", str(file), "--dry-run", *flags], prog="raydd", description="")
    assert found.given == {"sweep.plateau_gain", "distill.rank", "sweep.first"}


def test_a_wrong_command_is_answered_with_the_nearest(capsys: pytest.CaptureFixture[str]):
    assert main(["distil"]) == 2
    assert "Did you mean 'distill'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--distil.pairs", 50], "--distill.pairs"),
        (["--distill.pairs", "many"], "--distill.pairs"),
        (["--distill.images", "pixel"], "features-then-pixels"),
        (
            ["--distill.protocol", "encoder", "--distill.start", "herding"],
            "raydd: distill.start is 'herding', but must be random under distill.protocol encoder.",
        ),
        (["--distill.method", "repblent"], "Did you mean 'repblend'?"),
        (["--experts.loss", "infonse"], "Did you mean 'infonce'?"),
        (["--preset", "repblend-flickr30k"], "Did you mean 'repblend-flickr30k-"),
        (["--config", ""], "raydd: The settings file '' cannot be read"),
        (["--config", "no.yaml"], "raydd: The settings file no.yaml cannot be read"),
        (["--config"], "raydd: --config: expected one argument. See `raydd run --help`."),
        (["pairs"], "Unrecognized options: pairs"),
    ],
)
def test_a_mistake_in_the_flags_is_told_shortly(arguments: list, said: str, capsys: pytest.CaptureFixture[str]):
    assert said in refusal(capsys, *arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("report --film -3", "--film is -3, but must be 0 or more."),
        ("search dogs --count -45", "--count is -45, but must be 1 or more."),
        ("features --workers -1", "--workers is -1, but must be 0 or more."),
        ("experts --workers -1", "--workers is -1, but must be 0 or more."),
        ("search", "QUERY is missing. Give a text, or the path of an image."),
    ],
)
def test_a_wrong_option_is_refused_before_any_work(
    arguments: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main([*arguments.split(), "--place.home", str(tmp_path / "home")]) == 2
    assert capsys.readouterr().err == f"raydd: {said}\n"
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("distil: {pairs: 9}", "there is no section 'distil'. Did you mean 'distill'?"),
        ("distill: {pair: 9}", "There is no setting 'distill.pair'. Did you mean 'distill.pairs'?"),
        ("distill: {pairs: many}", "distill.pairs is 'many': input should be a valid integer"),
        ("distill: {images: pixel}", "distill.images is 'pixel': input should be 'features-then-pixels'"),
        ("distill: 9", "the section distill must hold settings, not 9."),
        ("[1, 2]", "must hold sections such as `data:`, not a list."),
        ("a: [", "is not YAML"),
        ("experts: {lr: 0}", "experts.lr is 0.0, but must be 1e-12 to 1e+06."),
        ("experts: {lr: 1}\nexperts: {epochs: 2}", "the key 'experts' is there twice"),
        ("experts: {lr: 0.1, lr: 0.2}", "the key 'lr' is there twice"),
        ("experts: {lr: true}", "experts.lr is true, but must be a number."),
        ("distill: {merged: 'no'}", "distill.merged is 'no', but must be true or false, without quotes."),
        ("place: {device: gpu}", "place.device is 'gpu', but must be auto, cpu"),
        ("place: {device: GPU:1}", "Did you mean cuda:1?"),
        ("place: {device: meta}", "place.device is 'meta', but must be auto, cpu"),
        ("distill: {seed: 12345678901234567890}", "distill.seed is 12345678901234567890, but must be 0 to 4 294"),
        ("[" * 1000, "is nested too deeply"),
    ],
)
def test_a_mistake_in_the_file_is_told_shortly(
    text: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    message = refusal(capsys, "--config", path)
    assert said in message
    assert message.count("\n") == 1


def test_debug_shows_where_an_error_came_from(capsys: pytest.CaptureFixture[str]):
    assert main(["run", "--preset", "none", "--debug"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1].startswith("raydd: ")
    assert "preset" in lines[-1]


def test_an_unexpected_error_is_one_line_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    from raydd.commands import run

    def fail(options: object) -> int:
        raise ZeroDivisionError("no pairs")

    monkeypatch.setattr(run, "main", fail)
    assert main(["run"]) == 1
    assert capsys.readouterr().err == (
        "raydd: unexpected ZeroDivisionError: no pairs. Run again with --debug for the traceback.\n"
    )


def test_the_last_words_of_a_library_that_ends_the_process_are_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    from raydd.commands import run

    monkeypatch.setattr(run, "main", lambda options: sys.exit("no licence found"))
    assert main(["run"]) == 1
    assert capsys.readouterr().err == "no licence found\n"


def test_an_interruption_says_how_to_go_on(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    from raydd.commands import run

    def interrupt(options: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "main", interrupt)
    assert main(["run"]) == 130
    assert "run the same command to continue" in capsys.readouterr().err
