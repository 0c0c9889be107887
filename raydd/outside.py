"""A user's own code by name, for every setting that takes a reader, an encoder, a method, a loss or a search space.

A name is a name in the registry, `module:NAME` of a module that Python can import, or `FILE.py:NAME`. A file's path is
relative to the working directory, and `~` is the home folder. A name with a colon is run as code.

An error in a user's code becomes a `ConfigError` that says where the error occurred, since a traceback through raydd's
own frames would not help; `--debug` shows the traceback anyway.
"""

import base64
import hashlib
import importlib
import importlib.util
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, Generic, ParamSpec, TypeVar

from raydd.errors import ConfigError, RayddError, nearest, shown
from raydd.plain_files import expanded

Kind = TypeVar("Kind")
Given = ParamSpec("Given")
Result = TypeVar("Result")

# A user's file is imported as a submodule of this one, so that another process can unpickle what the file defines.
__path__: list[str] = []

CODE_SETTINGS = ("data.reader", "encoders.image", "encoders.text", "distill.method", "distill.loss", "experts.loss")
"""Settings whose value can name a user's code."""

JOINED = "joined:"
_HUGGING_FACE = "hf:"
_DOWNLOAD_PREFIXES: Mapping[str, tuple[str, ...]] = {
    "encoders.image": ("timm:", "open_clip:"),
    "encoders.text": (_HUGGING_FACE, "open_clip:"),
    "data.reader": (_HUGGING_FACE,),
}


def find(name: str, registry: Mapping[str, Kind], setting: str, kind: type[Any] | None, expected: str) -> Kind:
    """Return what a setting names: an entry of the registry, or a user's own object, whose code is run.

    Args:
        name: a name in the registry, `module:NAME` or `FILE.py:NAME`.
        registry: from each known name to what it names.
        setting: the setting that holds the name, for messages.
        kind: class that the user's own object must have; None for a function.
        expected: the expected object in words, with an example, for the message about a wrong one.

    Raises:
        ConfigError: there is no such name, its code fails, or the object is not of this kind.
    """
    if name in registry:
        return registry[name]
    if ":" not in name:
        raise ConfigError(
            f"{setting} {shown(name)} is unknown. {nearest(name, registry)} Name your own as module:NAME or "
            "FILE.py:NAME."
        )
    user_object = outside(name, setting)
    if not (callable(user_object) if kind is None else isinstance(user_object, kind)):
        raise ConfigError(f"{setting} {name} is {_type_with_article(user_object)}, but must be {expected}.")
    return user_object  # type: ignore[return-value]


def outside(name: str, setting: str) -> Any:
    """Return the object NAME of a user's module or file, which is run as code.

    Args:
        name: `module:NAME` or `FILE.py:NAME`.
        setting: the setting that holds the name, for messages.

    Raises:
        ConfigError: there is no such file, module or name, or its code fails.
    """
    module, (source, attribute) = outside_module(name, setting), _split_name(name, setting)
    try:
        return guarded(getattr, name, setting)(module, attribute)  # a module's __getattr__ may run code
    except ConfigError as error:
        if not isinstance(error.__cause__, AttributeError):
            raise
        own_names = [
            key for key, value in vars(module).items() if not key.startswith("_") and _is_defined_in(module, value)
        ]
        hint = nearest(attribute, own_names) if own_names else "It defines no name."
        raise ConfigError(f"{setting} {name}: {source} has no {attribute!r}. {hint}") from error.__cause__


def outside_module(name: str, setting: str) -> ModuleType:
    """Return the module that holds NAME. A file is imported once per process, and again when its content has changed.

    Raises:
        ConfigError: there is no such file or module, or its code fails.
    """
    source, _ = _split_name(name, setting)
    file = _source_file(source, name, setting)
    try:
        return importlib.import_module(_module_name(file) if file else source)
    except BaseException as error:
        if _passes_through(error):
            raise
        path = str(file) if file else _module_file(source)
        line = _error_line(error, path)
        location = f" in line {line}" if line and file else f" in {path} line {line}" if line else ""
        not_found = isinstance(error, ModuleNotFoundError) and not file and not line
        advice = "Put its folder on PYTHONPATH, or give FILE.py:NAME." if not_found else "Correct it."
        raise ConfigError(
            f"{setting} {name}: {source} cannot be imported{location}: {_error_text(error)}. {advice}"
        ) from error


@dataclass(frozen=True)
class _Guarded(Generic[Given, Result]):
    """A user's function with its errors converted. It is a class because a closure could not be pickled."""

    function: Callable[Given, Result]
    name: str
    setting: str

    def __call__(self, *positional: Given.args, **keywords: Given.kwargs) -> Result:
        """Call the function.

        Raises:
            ConfigError: the function raised an error that is not one of raydd's.
        """
        with attributed(self.name, self.setting):
            return self.function(*positional, **keywords)


@contextmanager
def attributed(name: str, setting: str) -> Iterator[None]:
    """Turn an error of a user's function inside the block into a ConfigError with the setting, the file and the line.

    raydd's own errors, Ctrl-C, a graceful stop and CUDA OOM, which is handled elsewhere, pass through.

    Args:
        name: how the setting names the function: `module:NAME` or `FILE.py:NAME`.
        setting: the setting, for messages.

    Raises:
        ConfigError: an error was raised that is not one of raydd's.
    """
    try:
        yield
    except BaseException as error:
        if _passes_through(error):
            raise
        raise ConfigError(
            f"{setting} {name} failed{_error_location(error, name)}: {_error_text(error)}. Correct the function."
        ) from error


def guarded(function: Callable[Given, Result], name: str, setting: str) -> Callable[Given, Result]:
    """Wrap a user's function so that each call's errors are `attributed` to it.

    Args:
        function: the function to call.
        name: how the setting names the function: `module:NAME` or `FILE.py:NAME`.
        setting: the setting, for messages.
    """
    return function if isinstance(function, _Guarded) else _Guarded(function, name, setting)


def checked(result: Any, kind: type[Kind], name: str, setting: str) -> Kind:
    """Return the result of a user's function if it is of the expected class.

    Raises:
        ConfigError: it is of another class.
    """
    if not isinstance(result, kind):
        expected = "a mapping" if kind is Mapping else f"a {kind.__module__}.{kind.__qualname__}"
        raise ConfigError(
            f"{setting} {name} returned {_type_with_article(result)}, but must return {expected}. Correct the function."
        )
    return result


def source_identity(name: str) -> str:
    """Return the SHA-256 of the source file of `module:NAME` or `FILE.py:NAME`, 16 hexadecimal digits.

    The file is not run. For a module inside a package, `package.module:NAME`, Python imports the package to find the
    file, which runs the package's `__init__.py`.

    The hash is empty for a name in the registry, whose code is raydd's, and for a module without a file. For a package,
    it is the hash of its `__init__.py`. Modules that the file imports are not included.

    Raises:
        ConfigError: there is no such file.
    """
    if ":" not in name:
        return ""
    source, _ = _split_name(name, "The name")
    file = _source_file(source, name, "The name")
    path = file or Path(_module_file(source))
    return _digest(path) if path.is_file() else ""


def without_folder(name: str) -> str:
    """Return the name without the folder of a file or of an `hf:FOLDER`, for fingerprints of records.

    These must not depend on where the file or the folder is.
    """
    if name.startswith(JOINED):
        return JOINED + ",".join(map(without_folder, name.removeprefix(JOINED).split(",")))
    if folder := hugging_face_folder(name):
        return f"{_HUGGING_FACE}{folder.name}"
    source, colon, attribute = name.rpartition(":")
    return f"{Path(source).name}:{attribute}" if colon and source.endswith(".py") else name


def with_folder(name: str, setting: str) -> str:
    """Return the name with the absolute path of a file or an `hf:FOLDER`, for processes in another folder.

    Other names stay as they are.

    Args:
        name: the value of a setting.
        setting: the setting; only for some settings `hf:` is not a module.
    """
    if name.startswith(JOINED):
        return JOINED + ",".join(with_folder(part, setting) for part in name.removeprefix(JOINED).split(","))
    if _HUGGING_FACE in _DOWNLOAD_PREFIXES.get(setting, ()) and (folder := hugging_face_folder(name)):
        return f"{_HUGGING_FACE}{folder}"
    source, colon, attribute = name.rpartition(":")
    return f"{Path(source).expanduser().absolute()}:{attribute}" if colon and source.endswith(".py") else name


def hugging_face_folder(name: str) -> Path | None:
    """Return the absolute path of the folder of `hf:FOLDER`; None for another name, such as a model of the hub.

    A relative path is one of a folder only if that folder exists, since a model of the hub may have the same form.

    Raises:
        ConfigError: the path begins with the home folder of an unknown user.
    """
    argument = name.removeprefix(_HUGGING_FACE)
    if argument == name or not argument:
        return None
    path = expanded(argument, f"The folder in {_HUGGING_FACE}")
    is_folder = path.is_absolute() or os.path.isdir(path)  # noqa: PTH112 - a Path raises an error for long names
    return Path(os.path.abspath(path)) if is_folder else None  # noqa: PTH100 - a Path would keep '..'


def names_code(name: str, setting: str = "") -> bool:
    """Whether a name would run code from outside raydd: `module:NAME`, `FILE.py:NAME`, or one in a joined name.

    Args:
        name: the value of a setting.
        setting: the setting. For encoders and readers, a prefix such as `timm:` or `hf:` means a download; for any
            other setting it means a module.
    """
    return any(
        ":" in part and not part.startswith(_DOWNLOAD_PREFIXES.get(setting, ())) for part in _name_parts(name, setting)
    )


def names_download(name: str, setting: str) -> bool:
    """Whether a name would download an encoder or a data set: `timm:`, `open_clip:`, `hf:`, or one in a joined name."""
    return any(part.startswith(_DOWNLOAD_PREFIXES.get(setting, ())) for part in _name_parts(name, setting))


def require_trusted(
    names: Mapping[str, str], repeated: Mapping[str, str], subject: str, flag: str = "--{setting} {name}"
) -> None:
    """Refuse code and downloads from outside raydd that a downloaded set names, unless the user named the same.

    Args:
        names: from a setting to its value in the set's manifest.
        repeated: from a setting to the value that the user gave, by a flag or in a file.
        subject: the source of the names, as the subject of the message: "The set FOLDER".
        flag: how the user repeats a setting, with `{setting}` and `{name}` in it.

    Raises:
        ConfigError: the set names code or a download, and the user did not repeat exactly the same name.
    """
    untrusted = {
        setting: shlex.quote(name) if name.isprintable() else ascii(name)
        for setting, name in names.items()
        if (names_code(name, setting) or names_download(name, setting)) and repeated.get(setting) != name
    }
    if untrusted:
        runs_code = any(names_code(names[setting], setting) for setting in untrusted)
        download = "a data set" if all(setting == "data.reader" for setting in untrusted) else "an encoder"
        action = "run code from outside raydd" if runs_code else f"load {download} from outside raydd"
        raise ConfigError(
            f"{subject} names {' and '.join(f'{setting} {name}' for setting, name in untrusted.items())}, which would "
            f"{action}. If you trust it, repeat it: "
            f"{' '.join(flag.format(setting=key, name=untrusted[key]) for key in untrusted)}"
        )


def _name_parts(name: str, setting: str) -> Sequence[str]:
    """Return the encoders in a joined name, or the name itself."""
    if setting == "encoders.image" and name.startswith(JOINED):
        return name.removeprefix(JOINED).split(",")
    return [name]


def _split_name(name: str, setting: str) -> tuple[str, str]:
    source, _, attribute = name.rpartition(":")
    if not source or not attribute:
        raise ConfigError(f"{setting} {name!r} is incomplete. Name your own as module:NAME or FILE.py:NAME.")
    return source, attribute


def _source_file(source: str, name: str, setting: str) -> Path | None:
    """Return the file that a source names; None for a module.

    Raises:
        ConfigError: there is no such file.
    """
    if not source.endswith(".py"):
        return None
    try:
        file = Path(source).expanduser().absolute()
        exists = file.is_file()
    except (RuntimeError, ValueError, OSError):  # no such user's home, a null character, a name too long
        file, exists = source, False
    if not exists:
        raise ConfigError(
            f"{setting} {name}: there is no file {file}. Give its path, relative to the folder where you run raydd."
        )
    return Path(file)


def _module_file(source: str) -> str:
    """Return the file of a module, empty if it has none."""
    try:
        spec = importlib.util.find_spec(source)
    except Exception:  # no such parent, a parent that fails to import, or a module that was created in memory
        return getattr(sys.modules.get(source), "__file__", None) or ""
    return spec.origin or "" if spec and spec.has_location else ""


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def _module_name(file: Path) -> str:
    """Return the module name of a file: it identifies the content, and the file can be found from it."""
    return f"{__name__}.{_digest(file)}_{base64.urlsafe_b64encode(str(file).encode()).decode()}"


class _UncachedLoader(SourceFileLoader):
    """Compiles a file each time, since Python may use stale byte code within a second after the file changed."""

    def get_code(self, fullname: str) -> CodeType:  # noqa: ARG002 - the loader's interface
        """Return the file's code."""
        return self.source_to_code(self.get_data(self.path), self.path)  # type: ignore[return-value]


class _FileFinder(MetaPathFinder):
    """Finds the module of a user's file, in the process that named the file or in one that unpickles its objects."""

    def find_spec(self, fullname: str, *_: Any, **__: Any) -> ModuleSpec | None:
        """Return the spec of the file's module, None for any other module."""
        parent, rest = fullname.rpartition(".")[::2]
        if parent != __name__:
            return None
        digest, encoded = rest.split("_", maxsplit=1)
        file = Path(base64.urlsafe_b64decode(encoded).decode())
        if _digest(file) != digest:
            raise ImportError(f"{file} has changed since it was named")
        return importlib.util.spec_from_file_location(fullname, file, loader=_UncachedLoader(fullname, str(file)))


sys.meta_path.insert(0, _FileFinder())


def _is_defined_in(module: ModuleType, value: Any) -> bool:
    """Whether a module's own code made a value, as far as this can be known, rather than importing it."""
    if isinstance(value, type | FunctionType):
        return value.__module__ == module.__name__
    return not isinstance(value, ModuleType)


def _passes_through(error: BaseException) -> bool:
    """Whether an error is not the fault of the user's code."""
    oom_error = getattr(sys.modules.get("torch"), "OutOfMemoryError", RayddError)  # torch is not imported for this
    if isinstance(error, (RayddError, KeyboardInterrupt, GeneratorExit, oom_error)):
        return True
    # On SIGTERM a Ray worker raises SystemExit.
    sigterm_code = getattr(signal.getsignal(signal.SIGTERM), "__code__", None)
    return any(frame.f_code is sigterm_code for frame, _ in traceback.walk_tb(error.__traceback__))


def _error_location(error: BaseException, name: str) -> str:
    source = name.rpartition(":")[0]
    is_file = source.endswith(".py")
    file = str(Path(source).expanduser().absolute()) if is_file else _module_file(source)
    line = _error_line(error, file)
    return f" in {source if is_file else file} line {line}" if line else ""


def _error_line(error: BaseException, file: str) -> int | None:
    """Return the line of a file where an error was raised, or where the file called the code that raised it."""
    if isinstance(error, SyntaxError) and error.filename == file:
        return error.lineno
    frames = traceback.walk_tb(error.__traceback__)
    lines = [line for frame, line in frames if frame.f_code.co_filename == file]
    return lines[-1] if lines else None


def _error_text(error: BaseException) -> str:
    try:
        message = " ".join(str(error).split()).rstrip(".")
    except Exception:  # the str() of a user's own exception may fail
        message = ""
    return f"{type(error).__name__}: {message[:300]}" if message else type(error).__name__


def _type_with_article(value: Any) -> str:
    type_name = type(value).__name__
    return "None" if value is None else f"{'an' if type_name[0] in 'aeiouAEIOU' else 'a'} {type_name}"
