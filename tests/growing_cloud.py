"""A cloud whose machines are Ray nodes of this machine, as a provider of Ray's autoscaler, and its cluster file."""

import sys
from typing import Any

from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider
from ray.autoscaler.tags import TAG_RAY_USER_NODE_TYPE
from refusing_cloud import CLUSTER as REFUSED

CLUSTER = {**REFUSED, "provider": {"type": "external", "module": "growing_cloud.Growing"}}


class Growing(FakeMultiNodeProvider):
    """Ray's own stand-in for a cloud, at the address of the autoscaler that it runs in."""

    def __init__(self, provider_config: dict[str, Any], cluster_name: str) -> None:
        (address,) = (word.partition("=")[2] for word in sys.argv if word.startswith("--gcs-address="))
        own = {"gcs_address": address, "head_node_id": "head", "launch_multiple": True}
        super().__init__({**provider_config, **own}, cluster_name)
        self._nodes["head"]["tags"][TAG_RAY_USER_NODE_TYPE] = "head"
