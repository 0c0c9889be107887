"""The command line: `raydd COMMAND`. Errors that a user can fix print one short message and exit with code 2."""

import argparse
import atexit
import contextlib
import gc
import importlib
import io
import os
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, ClassVar

import tyro

from raydd.config import Config
from raydd.errors import ConfigError, RayddError, nearest
from raydd.outside import CODE_SETTINGS
from raydd.secrets_hidden import CleanStream, hide_password, remember, remember_command_secrets

COMMANDS = {
    "demo": "Run every stage on bundled pictures, without downloads: features, experts, sweep, test scores, report.",
    "init": "Inspect a folder of images and captions, and write the file of settings that reads it.",
    "run": "Run one distillation, from image-caption pairs to scores; finished stages are reused.",
    "features": "Encode every image and caption of a data set once, into the feature cache.",
    "experts": "Train models on all real pairs and keep the weights that distillation matches (expert trajectories).",
    "distill": "Distil a synthetic set, without scoring it.",
    "evaluate": "Train students on a synthetic set, on random pairs and on full data, and score them.",
    "sweep": "Search for good settings with Ray Tune and Optuna, tracked in MLflow.",
    "report": "Write one HTML page about a sweep or a set: results, which settings mattered, the pairs, the cost.",
    "compare": "Compare methods, numbers of pairs and data sets in one table, each method tuned in the same way.",
    "export": "Export a set for Hugging Face, WebDataset or as PNG; or a student as safetensors or ONNX.",
    "search": "Search a folder of photographs by a text or an image, with a student trained on a set in seconds.",
    "watch": "Watch a running sweep from another terminal: states, scores and loss curves of its trials.",
    "board": "Open MLflow in the browser: settings, curves and figures of every trial.",
    "verify": "Check every file of the store: which are damaged, misplaced or left over.",
    "doctor": "Check whether a planned run fits on this machine, and say what is missing.",
}

# Flags that are read before the others: flags that set defaults of other settings, and flags that name code.
_PARSED_FIRST = ("distill.protocol", *CODE_SETTINGS)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of every command."""

    defaults: ClassVar[Mapping[str, Any]] = {}
    """Defaults of this command, which win over the method's."""
    settings: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)  # --distill.pairs and the like
    """All settings."""
    config: Annotated[Path | None, tyro.conf.arg(metavar="FILE.yaml")] = None
    """A YAML file of settings; flags win over it."""
    preset: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None
    """Settings by name, most as published; file and flags win over them. `--help preset` lists them."""
    print_config: bool = False
    """Print the resulting settings as YAML and stop."""
    debug: bool = False
    """Show the whole traceback of an error."""
    given: Annotated[frozenset[str], tyro.conf.Suppress] = frozenset()
    """Names of the settings that are set by flags, regardless of their values."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code of the process."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # show characters that the terminal's encoding lacks as escapes
            stream.reconfigure(errors="backslashreplace")
    remember_command_secrets(argv, os.environ)
    atexit.register(gc.freeze)  # else Python's last garbage collection goes through torch and Ray: 1.5 to 3 s
    with contextlib.redirect_stderr(CleanStream(sys.stderr)):
        return _exit_code(argv)


def _exit_code(arguments: list[str]) -> int:
    """Run a command and return its exit code; print an error as one line, with --debug after its traceback."""
    debug = "--debug" in arguments
    try:
        return _dispatch(arguments)
    except RayddError as error:
        _print_message(str(error), debug)
        return 2
    except SystemExit as system_exit:  # tyro has shown the help, or what is wrong with a flag
        if isinstance(system_exit.code, str):  # of a library: its last words, as Python prints them
            print(system_exit.code, file=sys.stderr)
            return 1
        return int(system_exit.code or 0)
    except BrokenPipeError:  # the reader of the output, such as `head`, has stopped reading
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        _print_message("interrupted. Finished work is kept; run the same command to continue.")
        return 130
    except OSError as error:  # a fault of a disk, a folder or the network
        _print_message(_system_error_message(error), debug)
        return 2
    except MemoryError as error:
        _print_message(f"out of memory ({error or 'no details'}). `raydd doctor` says how much the run needs.", debug)
        return 2
    except Exception as error:
        advice = "" if debug else " Run again with --debug for the traceback."
        _print_message(f"unexpected {type(error).__name__}: {error}.{advice}", debug)
        return 1


def _print_message(message: str, debug: bool = False) -> None:
    from raydd.terminal.console import visible

    if debug:
        traceback.print_exc()
    print(visible(f"raydd: {message}"), file=sys.stderr)


def _system_error_message(error: OSError) -> str:
    """Return the message for an error of the operating system, with the file where it occurred."""
    reason = error.strerror or " ".join(str(error).split()) or type(error).__name__
    if not error.filename:
        return f"the system reports: {reason}. Check the disk, the folders that the settings name, and the network."
    return (
        f"{error.filename} cannot be used ({reason}). Check the path, its permissions and the free space on its disk."
    )


def _dispatch(arguments: list[str]) -> int:
    if arguments[:1] == ["help"]:
        arguments = _as_help_flag(arguments[1:])
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if arguments[0] == "--version":
        import raydd

        print(raydd.__version__)
        return 0
    if arguments[0] == "--completion":
        return _completion(arguments[1:])
    if arguments[0] == "--complete":
        from raydd.cli_completion import candidates

        print("\n".join(candidates(arguments[1:], COMMANDS)))
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in COMMANDS:
        raise RayddError(f"There is no command {name!r}. {nearest(name, COMMANDS)}")
    command = importlib.import_module(f"raydd.commands.{name}")
    if help_flags := [word for word in rest if word in ("-h", "--help", "--help-all")]:
        print(_help(name, command, rest, help_flags[0]))
        return 0
    options = parse(command.Options, rest, prog=f"raydd {name}", description=command.__doc__ or "")
    place = options.settings.place
    addresses = {f"place.{name}": getattr(place, name) for name in ("store", "mlflow", "study", "ray")}
    for address in addresses.values():  # addresses from a settings file may hold passwords too
        remember(address)
    if options.print_config:
        from raydd.settings import flatten, to_yaml, with_settings

        flat_settings = flatten(options.settings).items()
        url_settings = {name: value for name, value in flat_settings if isinstance(value, str) and "://" in value}
        redacted = {name: hide_password(value) for name, value in {**url_settings, **addresses}.items()}
        printable = with_settings(options.settings, redacted)
        print(to_yaml(printable), end="")
        return 0
    return command.main(options)


def parse(kind: type[Any], arguments: list[str], *, prog: str, description: str) -> Any:
    """Parse the options of a command: settings of method, protocol and preset, then of the file, then of the flags.

    Later ones win.

    Raises:
        ConfigError: an unknown name or a bad value in any of them.
    """
    from raydd.settings import expand_paths

    base = _settings_below_flags(kind, arguments, prog)
    with _as_text(arguments):
        options = tyro.cli(
            kind, default=kind(settings=base), args=arguments, prog=prog, description=description, use_underscores=False
        )
    return replace(options, settings=expand_paths(options.settings), given=frozenset(_flags(arguments)))


def _flags(arguments: Sequence[str]) -> Iterator[str]:
    """Yield the settings that flags set: `--distill.steps 50`, `--sweep.plateau-gain=1`, `--sweep.no-first`."""
    for word in arguments:
        section, dot, setting = word.partition("=")[0].removeprefix("--").partition(".")
        if word.startswith("--") and dot:
            yield f"{section}.{setting.removeprefix('no-').replace('-', '_')}"


@contextlib.contextmanager
def _as_text(arguments: Sequence[str]) -> Iterator[None]:
    """Escape control characters in tyro's messages, which repeat wrong arguments: they could control the terminal."""
    if all(map(str.isprintable, arguments)):
        yield
        return
    captured = io.StringIO()
    try:
        with contextlib.redirect_stderr(captured):
            yield
    finally:
        from raydd.terminal.console import visible

        print(visible(captured.getvalue()), end="", file=sys.stderr)


def _settings_below_flags(kind: type[Any], arguments: list[str], prog: str) -> Config:
    from raydd.settings import given_settings, load

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--config")
    parser.add_argument("--preset")
    parser.add_argument("--set")
    for name in _PARSED_FIRST:
        parser.add_argument(f"--{name}", dest=name)
    try:
        parsed, _ = parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise ConfigError(f"{error.argument_name}: {error.message}. See `{prog} --help`.") from error
    overrides = {name: value for name, value in vars(parsed).items() if name in _PARSED_FIRST and value}
    if parsed.set and "set" in {option.name for option in fields(kind)}:
        # A set stores the settings that made it. The user's settings win, and only they may name code to run.
        from raydd.sets.read import open_set

        provenance = open_set(Path(parsed.set)).provenance
        config = provenance.config(given_settings(parsed.config, parsed.preset, overrides))
        if unknown := provenance.unknown_settings:
            _print_message(
                f"note: this version lacks some settings of the set and leaves them out: {', '.join(unknown)}. "
                f"Version {provenance.raydd}, which made the set, has them."
            )
        return config
    return load(parsed.config, parsed.preset, overrides, kind.defaults)


def _as_help_flag(words: list[str]) -> list[str]:
    """Return `COMMAND --help SECTION` for the words after `raydd help`: COMMAND SECTION, or SECTION alone."""
    from raydd.cli_help import TOPICS

    if words and words[0] in TOPICS and words[0] not in COMMANDS:
        words = ["run", *words]
    return [*words[:1], "--help", *words[1:]]


def _help(name: str, command: ModuleType, arguments: list[str], help_flag: str) -> str:
    """Return the help of a command: the short help, the section named after `--help`, or everything."""
    from raydd import cli_help

    position = arguments.index(help_flag)
    topics = [word for word in arguments[position + 1 : position + 2] if not word.startswith("-")]
    other_arguments = [*arguments[:position], *arguments[position + 1 + len(topics) :]]
    settings = _settings_below_flags(command.Options, other_arguments, f"raydd {name}")
    if help_flag == "--help-all":
        return cli_help.full_help(name, command.Options, command.__doc__ or "", settings)
    if topics:
        return cli_help.section_help(topics[0], settings)
    return cli_help.command_help(name, command.Options, COMMANDS[name], settings)


def _completion(shells: list[str]) -> int:
    """Print the script that makes a shell complete commands, settings and their values."""
    from raydd.cli_completion import SCRIPTS

    if len(shells) != 1 or shells[0] not in SCRIPTS:
        raise ConfigError(f"--completion takes one shell: {', '.join(SCRIPTS)}.")
    print(SCRIPTS[shells[0]], end="")
    return 0


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "usage: raydd COMMAND [--config FILE.yaml] [--preset NAME] [--SECTION.SETTING VALUE ...]",
            "",
            "Distil image-caption data to about a hundred synthetic pairs that still train a retrieval model.",
            "",
            *lines,
            "",
            "Start with `raydd demo`. `raydd help COMMAND` shows an example and the settings that matter,",
            "`raydd COMMAND --help-all` shows all settings. `raydd --completion bash` (zsh, fish) prints the script",
            "for Tab completion; docs/reference/commands.md says which file to write it to.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
