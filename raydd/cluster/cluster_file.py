"""A cluster's file, as `raydd doctor` reads it: its versions of Ray and Python, and the environment of its nodes.

This module does not import Ray.
"""

import contextlib
import importlib.metadata
import os
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from raydd.cluster.environment import ray_address
from raydd.config import Config
from raydd.errors import ConfigError
from raydd.plain_files import read_file
from raydd.secrets_hidden import remember_command_secrets

ENVIRONMENT = "raydd.env"  # next to the file
_MOST_BYTES = 2**20  # of each of both files
_IMAGES = ("image", "image_id", "head_image", "worker_image")
# Images of Ray, and images with Ray in them, whose tag is Ray's version too.
_IMAGE = re.compile(r"(?:^|[/:])[\w.-]*ray[\w.-]*:(\d+\.\d+\.\d+)(?:-py(\d)(\d+))?")

# Parts of a shell's text that are quoted: by ' or ", or a character by a backslash.
_QUOTED = re.compile(r"""'[^']*'|"(?:\\.|[^"\\])*"|\\.""", re.DOTALL)
_DOLLAR = "\0"  # no file of a shell has it


def compare_versions(file: Path, config: Config) -> str:
    """Compare the versions of Ray and Python in a cluster's file with the versions here.

    `ray up` needs the same Ray on the cluster; a process here that joins the cluster (`place.ray`) also needs the same
    Python.

    Raises:
        ConfigError: they differ, or the file is not YAML.
    """
    ray_versions, python_versions = versions_in(file)
    installed = importlib.metadata.version("ray"), f"{sys.version_info.major}.{sys.version_info.minor}"
    if not ray_versions:
        return (
            f"{file} names no version of Ray: its machines use theirs, or Ray {installed[0]} once it is installed there"
        )
    if ray_versions != [installed[0]]:
        raise ConfigError(
            f"{file} starts Ray {' and '.join(ray_versions)}, but this machine has Ray {installed[0]}. Run "
            f"`pip install ray=={ray_versions[0]}`, or write version {installed[0]} everywhere in the file."
        )
    if too_old := [version for version in python_versions if tuple(map(int, version.split("."))) < (3, 11)]:
        raise ConfigError(f"{file} starts Python {too_old[0]}, but raydd needs 3.11 or newer. Use a tag with -py311.")
    joins = ray_address(config.place.ray) not in ("local", "auto")
    if python_versions and python_versions != [installed[1]] and joins:
        raise ConfigError(
            f"{file} starts Python {' and '.join(python_versions)}, and a process of Python {installed[1]} cannot join "
            "it (place.ray). Use the same Python here, or run the command on the cluster's head with `ray submit`."
        )
    return (
        f"{file}: Ray {installed[0]} there and here, Python {' and '.join(python_versions) or 'unknown'} there and "
        f"{installed[1]} here"
    )


def versions_in(file: Path) -> tuple[list[str], list[str]]:
    """Return the versions of Ray and of Python in a cluster's file, from its images and KubeRay's `rayVersion`.

    Raises:
        ConfigError: the file is not YAML.
    """
    try:
        documents = list(yaml.safe_load_all(read_file(file, _MOST_BYTES)))
    except yaml.YAMLError as error:
        raise ConfigError(f"{file} is not YAML ({' '.join(str(error).split())}).") from error
    entries = list(_entries(documents))
    tags = [match.groups() for name, value in entries if name in _IMAGES and (match := _IMAGE.search(str(value)))]
    kuberay = [str(value) for name, value in entries if name == "rayVersion"]
    pythons = {f"{major}.{minor}" for _, major, minor in tags if major}
    return sorted({*kuberay, *(ray for ray, *_ in tags)}), sorted(pythons)


def _entries(tree: Any) -> Iterator[tuple[str, Any]]:
    """Yield each key with its value, at all depths of a YAML tree."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            yield str(name), value
            yield from _entries(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _entries(value)


@contextlib.contextmanager
def nodes_environment(file: Path | None) -> Iterator[None]:
    """Inside the block, use the variables of the `raydd.env` next to a cluster's file, as the nodes do; None: no file.

    Their secrets are redacted in all later messages of this process.

    Without variables that hold only on a node: those made of other variables, such as PATH, and a store in a folder.

    Raises:
        ConfigError: `raydd.env` is not a list of NAME=VALUE.
    """
    own, variables = dict(os.environ), _variables(file.parent / ENVIRONMENT) if file else {}
    remember_command_secrets((), variables)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(own)


def _variables(file: Path) -> Mapping[str, str]:
    if not file.exists():
        return {}
    lines = read_file(file, _MOST_BYTES).decode().splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    try:
        words = shlex.split(_QUOTED.sub(_with_marked_dollars, text))
    except ValueError as error:
        raise ConfigError(
            f"{file} cannot be read by a shell ({error}). Write NAME=VALUE, quoted where needed."
        ) from error
    pairs = [word.replace(_DOLLAR, "$").partition("=")[::2] for word in words if "=" in word and "$" not in word]
    return {name: value for name, value in pairs if name != "RAYDD_STORE" or "://" in value}


def _with_marked_dollars(quoted: re.Match[str]) -> str:
    """Return a quoted part with each `$` marked that is a character, and not the beginning of a variable's name."""
    part = quoted[0]
    if part.startswith("'"):
        return part.replace("$", _DOLLAR)
    return re.sub(r"\\([\\$])", lambda escaped: _DOLLAR if escaped[1] == "$" else escaped[0], part)
