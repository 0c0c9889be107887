"""Readers: each lists a data set of one layout. A new one is a file with `read(config) -> Listing` and a line here.

A reader of your own needs no change here: `data.reader = "module:function"` names a function with that signature.
"""

from collections.abc import Callable
from importlib import import_module

from raydd.config import DataConfig
from raydd.data.listing import Listing
from raydd.data.readers import coco, flat_json, karpathy, parquet_files, stamps, tar_shards
from raydd.errors import DataError, nearest

Reader = Callable[[DataConfig], Listing]

READERS: dict[str, Reader] = {
    "stamps": stamps.read,
    "flat-json": flat_json.read,
    "karpathy": karpathy.read,
    "coco": coco.read,
    "parquet": parquet_files.read,
    "webdataset": tar_shards.read,
}


def find_reader(name: str) -> Reader:
    """The reader of that name, or the function that `module:function` names.

    Raises:
        DataError: there is none.
    """
    if name in READERS:
        return READERS[name]
    module, colon, function = name.partition(":")
    if not colon:
        raise DataError(f"There is no reader {name!r}. {nearest(name, READERS)} Your own is `module:function`.")
    try:
        return getattr(import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise DataError(
            f"data.reader {name}: {error}. Name a function of a module that Python can import; "
            "for a file of yours, put its folder on PYTHONPATH."
        ) from error
