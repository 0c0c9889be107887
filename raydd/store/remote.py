"""Opens buckets: turns a store's address into a pyarrow file system, and repeats requests while a service has trouble.

Credentials come from the usual chain of AWS or GCP (environment, files, the machine's role). They never come from the
address, since an address is shown, logged and kept in settings.
"""

import datetime
import logging
import os
import re
from urllib.parse import parse_qsl, urlsplit

import tenacity
from pyarrow import fs

from raydd.errors import ConfigError
from raydd.secrets_hidden import hide_password

PATIENCE_SECONDS = 180.0  # seconds for which a request is repeated before it fails
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 10.0  # seconds; each pause is random, up to twice the one before
_CONNECT_SECONDS, _ANSWER_SECONDS = 5.0, 30.0
_OPTIONS = {
    "s3": ("region", "scheme", "endpoint_override", "anonymous"),
    "gs": ("scheme", "endpoint_override", "anonymous"),
}
# Error texts of services and networks for temporary trouble. Other errors (no such bucket, no permission) last.
_TEMPORARY = re.compile(
    r"HTTP status (5\d\d|429)|NETWORK_CONNECTION|INTERNAL_FAILURE|SERVICE_UNAVAILABLE|SLOW_DOWN|THROTTLING"
    r"|REQUEST_TIMEOUT|[Tt]imed? ?out|UNAVAILABLE|DEADLINE_EXCEEDED|INTERNAL:|[Cc]onnection (reset|refused)"
)

log = logging.getLogger(__name__)


def open_bucket(address: str) -> tuple[fs.FileSystem, str]:
    """Return the file system of `s3://bucket/prefix` or `gs://bucket/prefix`, and the path in it.

    Options follow a question mark: `region`, `scheme` and `endpoint_override` for a service other than Amazon's or
    Google's own, and `anonymous=true` for a service that needs no credentials. $AWS_ENDPOINT_URL_S3 and
    $AWS_ENDPOINT_URL name an endpoint for the whole process.

    Raises:
        ConfigError: the address has another scheme, credentials, no bucket, or an unknown option.
    """
    parts = urlsplit(address)
    if parts.scheme not in _OPTIONS:
        raise ConfigError(f"The store {parts.scheme}://… is of an unknown kind. Use a folder, s3:// or gs://.")
    options, known_options = dict(parse_qsl(parts.query)), _OPTIONS[parts.scheme]
    if "@" in parts.netloc or any(hide_password(value) != value for value in options.values()):  # of an endpoint
        raise ConfigError(
            f"The store's address {parts.scheme}://…@… holds credentials, which would be shown and logged. Leave them "
            "out: they are taken from the environment, the usual files, or the machine's role."
        )
    if unknown := sorted(set(options) - set(known_options)):
        raise ConfigError(f"The store's address has the option {unknown[0]!r}. Known: {', '.join(known_options)}.")
    if not parts.netloc:
        raise ConfigError(f"The store's address {address} names no bucket. Write {parts.scheme}://BUCKET/FOLDER.")
    base = f"{parts.netloc}{parts.path}".rstrip("/")
    return (_s3_file_system(parts.netloc, options) if parts.scheme == "s3" else _gcs_file_system(options)), base


def _s3_file_system(bucket: str, options: dict[str, str]) -> fs.FileSystem:
    environment_endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    endpoint = options.get("endpoint_override") or environment_endpoint
    region = options.get("region") or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    return fs.S3FileSystem(
        region=region or (None if endpoint else fs.resolve_s3_region(bucket)),
        endpoint_override=endpoint,
        scheme=options.get("scheme"),
        anonymous=options.get("anonymous") == "true",
        connect_timeout=_CONNECT_SECONDS,
        request_timeout=_ANSWER_SECONDS,
        allow_delayed_open=True,  # a small file is one request, not the three of a multipart upload
    )


def _gcs_file_system(options: dict[str, str]) -> fs.FileSystem:
    return fs.GcsFileSystem(
        scheme=options.get("scheme", "https"),
        endpoint_override=options.get("endpoint_override"),
        anonymous=options.get("anonymous") == "true",
        retry_time_limit=datetime.timedelta(seconds=_ANSWER_SECONDS),
    )


def retrying(patience: float) -> tenacity.Retrying:
    """Return what repeats a call during temporary trouble, with random, doubling pauses, for `patience` seconds."""
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(is_temporary),
        wait=tenacity.wait_random_exponential(multiplier=_FIRST_PAUSE, max=_LONGEST_PAUSE),
        stop=tenacity.stop_after_delay(patience),
        before_sleep=_log_retry,
        reraise=True,
    )


def is_temporary(error: BaseException) -> bool:
    """Return whether an error is temporary, so that a later attempt may succeed."""
    return isinstance(error, OSError) and bool(_TEMPORARY.search(str(error)))


def _log_retry(state: tenacity.RetryCallState) -> None:
    if state.attempt_number == 2:  # the first repetition is not worth a message
        error = state.outcome.exception() if state.outcome else None
        log.warning("The store does not answer (%s); trying again.", str(error).split("; Details")[0][-200:])
