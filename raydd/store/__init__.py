"""The store: records named by the fingerprint of what made them, in a folder or a bucket.

`Store` reads and writes files, `Record` groups the files of one stage's result. Nothing else touches storage.
"""

from raydd.store.records import Record, fingerprint
from raydd.store.storage import Store

__all__ = ["Record", "Store", "fingerprint"]
