"""A Ray of this machine alone, for all tests of a session that ask for it."""

import pytest


@pytest.fixture(scope="session")
def ray_here(tmp_path_factory):
    from raydd.cluster.connect import cluster

    with cluster("local", tmp_path_factory.mktemp("home")):
        yield
