"""A claimant for tests of one process."""

import contextlib

from raydd.progress import Leave


class Alone:
    """A claimant without rivals, or whose rivals have some of the experts in hand for a while."""

    def __init__(self, taken=()):
        self.taken = set(taken)
        self.asked = []
        self.leaving = False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def progress(self, work, done, total):
        if self.leaving:
            raise Leave

    @contextlib.contextmanager
    def waiting_for(self, key):
        yield

    @contextlib.contextmanager
    def holding(self, key):
        self.asked.append(key)
        yield int(key.split()[-1]) not in self.taken
