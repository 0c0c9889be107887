"""The store: records in a folder or a bucket, each named by the fingerprint of the settings and inputs that made it.

`Store` reads and writes files; `Record` groups the files of one stage's result. No other code accesses storage.
"""

from raydd.store.records import Record, fingerprint
from raydd.store.storage import Store

__all__ = ["Record", "Store", "fingerprint"]
