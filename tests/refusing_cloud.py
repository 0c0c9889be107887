"""A cloud that starts no machine, as a provider of Ray's autoscaler, and a cluster file that names it."""

from typing import Any

from ray.autoscaler.node_launch_exception import NodeLaunchException
from ray.autoscaler.node_provider import NodeProvider
from ray.autoscaler.tags import TAG_RAY_NODE_KIND, TAG_RAY_USER_NODE_TYPE

REASON = "Node Launch Exception (VcpuLimitExceeded): You have requested more vCPU capacity than your limit of 0 allows."
LISTS = ("cluster_synced_files", "rsync_exclude", "rsync_filter", "initialization_commands")
COMMANDS = ("setup_commands", "head_setup_commands", "worker_setup_commands", "head_start_ray_commands")
CLUSTER = {
    "cluster_name": "refused",
    "max_workers": 2,
    "provider": {"type": "external", "module": "refusing_cloud.Refusing"},
    "auth": {"ssh_user": "nobody"},
    "available_node_types": {
        "head": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "worker": {"resources": {"CPU": 4, "GPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": 2},
    },
    "head_node_type": "head",
    "file_mounts": {},
    "file_mounts_sync_continuously": False,
    **{name: [] for name in (*LISTS, *COMMANDS, "worker_start_ray_commands")},
}
HEAD = {  # what `ray up` gives the head's `ray start`
    "RAY_enable_autoscaler_v2": "1",
    "RAY_CLOUD_INSTANCE_ID": "head",
    "RAY_NODE_TYPE_NAME": "head",
    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
}


class Refusing(NodeProvider):
    """Has a head, and no quota."""

    def non_terminated_nodes(self, tag_filters: dict[str, str]) -> list[str]:
        return ["head"]

    def is_running(self, node_id: str) -> bool:
        return True

    def is_terminated(self, node_id: str) -> bool:
        return False

    def node_tags(self, node_id: str) -> dict[str, str]:
        return {TAG_RAY_NODE_KIND: "head", TAG_RAY_USER_NODE_TYPE: "head"}

    def create_node(self, node_config: dict[str, Any], tags: dict[str, str], count: int) -> None:
        category, description = "VcpuLimitExceeded", REASON.partition(": ")[2]
        raise NodeLaunchException(category, description, None)

    def create_node_with_resources_and_labels(
        self, node_config: dict[str, Any], tags: dict[str, str], count: int, resources: Any, labels: Any
    ) -> None:
        self.create_node(node_config, tags, count)
