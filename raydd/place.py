"""Where results are kept: the home folder, the store, the addresses of databases."""

import contextlib
import os
import re
import stat
from pathlib import Path

from raydd.config import PlaceConfig
from raydd.errors import ConfigError
from raydd.plain_files import expanded, require_writable_folder
from raydd.secrets_hidden import hidden, hide_password, remember
from raydd.store import Store
from raydd.store.remote import PATIENCE_SECONDS

_HOME_ENTRIES = {  # names of what raydd writes into the home folder
    *("store", "cache", "studies", "mlflow", "mlartifacts", "sweeps", "comparisons", "reports", "demo"),
    *("ray", "ray-runs", "board"),
}
_SQLITE = "sqlite:///"
# The option of each driver of a database that limits the seconds of a connection's start.
_TIME_LIMITS = {
    **dict.fromkeys(("psycopg", "psycopg2", "pymysql", "mysqldb"), "connect_timeout"),
    **dict.fromkeys(("pg8000", "pyodbc"), "timeout"),
    "mysqlconnector": "connection_timeout",
    "pymssql": "login_timeout",
}
_IN_MEMORY = re.compile(r"sqlite(\+\w+)?:///?($|\?|:memory:|file::memory:|file:.*mode=memory)")


def home(place: PlaceConfig) -> Path:
    """Return the folder for everything that raydd writes: `place.home`, else $RAYDD_HOME, else ~/.raydd."""
    configured = place.home or os.environ.get("RAYDD_HOME")
    return expanded(configured or "~/.raydd", "place.home" if configured else "the default of place.home").absolute()


def make_home(place: PlaceConfig) -> Path:
    """Make the home folder, which only its owner can read, since it holds logs and databases of runs.

    An existing home folder, such as one of an older version, is closed to other users, unless it holds files that are
    not raydd's, or its setgid bit says that a group shares it.

    Raises:
        ConfigError: the folder cannot be made.
    """
    folder = home(place)
    if folder.exists():
        _close_to_others(folder)
    else:
        require_writable_folder(folder, "place.home")
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _close_to_others(folder: Path) -> None:
    state = folder.stat()
    shared = state.st_mode & (stat.S_ISGID | stat.S_ISVTX) or state.st_uid != os.getuid()
    if shared or not state.st_mode & 0o077 or not folder.is_dir():
        return
    if {entry.name.partition(".")[0] for entry in folder.iterdir()} <= _HOME_ENTRIES:
        with contextlib.suppress(PermissionError):  # some network disks do not allow changing a folder's mode
            folder.chmod(0o700)


def open_store(place: PlaceConfig, *, patience: float = PATIENCE_SECONDS) -> Store:
    """Open the store of records: `place.store`, else $RAYDD_STORE, else the folder `store` in the home folder.

    Args:
        place: the settings `place.*`.
        patience: seconds during which requests to a bucket that does not answer are repeated.
    """
    folder = make_home(place)
    root = place.store or os.environ.get("RAYDD_STORE") or folder / "store"
    return Store(remember(str(root)), cache=folder / "cache", cache_bytes=int(place.cache_gb * 1e9), patience=patience)


def sqlite_file(address: str) -> Path | None:
    """Return the file of a database's address; None if the database is not an SQLite file."""
    return Path(address.removeprefix(_SQLITE)) if address.startswith(_SQLITE) else None


def try_database(address: str, seconds: int) -> None:
    """Connect to a database once.

    Args:
        address: its address, in SQLAlchemy's format.
        seconds: how long a server may take to answer.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: it does not answer, or refuses the login.
        ImportError: the address names a driver that is not installed.
    """
    from sqlalchemy import create_engine, make_url
    from sqlalchemy.pool import NullPool

    option = _TIME_LIMITS.get(make_url(address).get_dialect().driver)
    create_engine(address, poolclass=NullPool, connect_args={option: seconds} if option else {}).connect().close()


def mlflow_address(place: PlaceConfig) -> str:
    """Return MLflow's address: `place.mlflow`, else $MLFLOW_TRACKING_URI, else SQLite in the home; `none` for none."""
    configured = place.mlflow or os.environ.get("MLFLOW_TRACKING_URI")
    return remember(configured or f"sqlite:///{home(place) / 'mlflow.db'}")


def study_address(place: PlaceConfig) -> str:
    """Return the address of Optuna's database: `place.study`, else $RAYDD_STUDY, else SQLite in the home folder.

    Raises:
        ConfigError: it is a database in memory, which each process would have for itself and lose at its end.
    """
    address = remember(place.study or os.environ.get("RAYDD_STUDY") or f"sqlite:///{home(place) / 'studies.db'}")
    if _IN_MEMORY.match(address):
        raise ConfigError(
            f"The study's database {hide_password(address)} is in memory and would be lost when the process ends. "
            "Set place.study or $RAYDD_STUDY to a file: sqlite:////FOLDER/studies.db."
        )
    return address


def unopened_study(address: str, error: Exception) -> ConfigError:
    """Return the error for a study's database that cannot be opened, without its password."""
    return ConfigError(
        f"The study's database {hide_password(address)} cannot be opened "
        f"({type(error).__name__}: {' '.join(hidden(str(error)).split())}). "
        "Check place.study or $RAYDD_STUDY."
    )
