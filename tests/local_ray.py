"""A Ray of this machine alone, for the tests of a file that ask for it; other files start Ray as they need it."""

import pytest


@pytest.fixture(scope="module")
def ray_here(tmp_path_factory):
    from raydd.cluster.connect import cluster

    with cluster("local", tmp_path_factory.mktemp("home")):
        yield
