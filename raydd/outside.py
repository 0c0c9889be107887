"""A user's own code by name: `FILE.py:NAME`, or `module:NAME` of a module that Python can import."""

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

from raydd.errors import ConfigError, nearest


def outside(name: str, setting: str) -> Any:
    """What NAME is in the file or module, which is run as code.

    Args:
        name: `FILE.py:NAME` or `module:NAME`.
        setting: the setting that asks for it, for messages.

    Raises:
        ConfigError: there is no such file, module or name, or it cannot be run.
    """
    source, _, attribute = name.rpartition(":")
    try:
        module = _of_file(Path(source)) if source.endswith(".py") else importlib.import_module(source)
    except Exception as error:  # a user's own file can raise anything
        raise ConfigError(
            f"{setting} {name}: {source} cannot be imported ({type(error).__name__}: {error}). "
            "Correct it, or put a module's folder on PYTHONPATH."
        ) from error
    known = [key for key in vars(module) if not key.startswith("_")]
    if attribute not in known:
        raise ConfigError(f"{setting} {name}: {source} has no {attribute!r}. {nearest(attribute, known)}")
    return getattr(module, attribute)


def _of_file(file: Path) -> ModuleType:
    if not file.is_file():
        raise FileNotFoundError("there is no such file")
    spec = importlib.util.spec_from_file_location(f"raydd_outside_{file.stem}", file)
    assert spec is not None  # of a file that ends in .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
