"""Access to weights that lie on a hub: one clear sentence where it cannot be reached, and no minutes of retries."""

import contextlib
import functools
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator

from raydd.errors import DataError, RayddError

_PATIENCE = 5.0  # seconds for the hub's first answer


@contextlib.contextmanager
def hub_access(what: str, setting: str) -> Iterator[None]:
    """Run a loader that may download; where the hub does not answer it reads the local cache alone.

    Args:
        what: what is loaded, for the message, such as "the weights timm:nfnet_l0".
        setting: the setting that takes a local file instead.

    Raises:
        DataError: the weights are neither in the local cache nor to be had.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _answers(constants.ENDPOINT)
    why = "the hub cannot be reached" if constants.HF_HUB_OFFLINE and not before else ""
    try:
        yield
    except RayddError:
        raise
    except Exception as error:  # each library, and each HTTP client below it, has errors of its own
        why = why or (str(error) or type(error).__name__).strip().splitlines()[0].rstrip(".")
        raise DataError(
            f"{what[0].upper()}{what[1:]}: not on this machine and not to be had, since {why}. "
            f"Fetch a copy where there is a connection and name it in {setting}, or put random:SEED there."
        ) from error
    finally:
        constants.HF_HUB_OFFLINE = before


@functools.cache
def _answers(endpoint: str) -> bool:
    request = urllib.request.Request(endpoint, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=_PATIENCE).close()
    except urllib.error.HTTPError:
        return True
    except OSError as error:
        return isinstance(getattr(error, "reason", None), ssl.SSLError)  # the hub's client has certificates of its own
    return True
