"""Access to weights that lie on a hub: one clear sentence where it cannot be reached, and no minutes of retries."""

import contextlib
import functools
from collections.abc import Iterator

from raydd.errors import DataError

_PATIENCE = 5.0  # seconds for the hub's first answer


@contextlib.contextmanager
def hub_access(weights: str, setting: str) -> Iterator[None]:
    """Run a loader that may download; where the hub does not answer it reads the local cache alone.

    Args:
        weights: what is loaded, for the message.
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
    except (OSError, RuntimeError, ValueError) as error:
        why = why or (str(error) or type(error).__name__).strip().splitlines()[0].rstrip(".")
        raise DataError(
            f"The weights {weights} are not on this machine and cannot be had: {why}. "
            f"Fetch them where there is a connection and give the local copy as {setting}, or use random:SEED there."
        ) from error
    finally:
        constants.HF_HUB_OFFLINE = before


@functools.cache
def _answers(endpoint: str) -> bool:
    import httpx

    try:
        httpx.head(endpoint, timeout=_PATIENCE)
    except httpx.HTTPError:
        return False
    return True
