"""An exported folder on the Hugging Face hub, or on a server that speaks its words ($HF_ENDPOINT)."""

from pathlib import Path

from raydd.errors import ConfigError

_HELP = {
    401: "The hub does not take the token: log in with `hf auth login`, or correct $HF_TOKEN.",
    403: "The token may not write there: give one with write access, and a name that is yours.",
    404: "There is no such place: correct the name, USER/NAME.",
}


def push(folder: Path, name: str) -> str:
    """Push an exported folder as a data set, which is made if it is missing; gives its address.

    The token is that of `hf auth login` or $HF_TOKEN; huggingface_hub reads it, nothing here does.

    Args:
        folder: the export.
        name: USER/NAME on the hub.

    Raises:
        ConfigError: nobody is logged in, or the hub refuses or cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HTTPError  # pyright: ignore[reportPrivateImportUsage]

    api = HfApi()
    try:
        address = api.create_repo(name, repo_type="dataset", exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, repo_type="dataset")
    except (HfHubHTTPError, HTTPError, OSError, ValueError) as error:
        status = error.response.status_code if isinstance(error, HfHubHTTPError) and error.response is not None else 0
        help = _HELP.get(status, "Check the name, USER/NAME, the network and $HF_ENDPOINT, and give the command again.")
        raise ConfigError(f"{name} cannot be pushed ({_reason(error)}). {help}") from error
    return str(address)


def _reason(error: Exception) -> str:
    """What the hub or the network said, on one line."""
    said = getattr(error, "server_message", None) or str(error)
    return next((line.strip() for line in said.splitlines() if line.strip()), type(error).__name__)
