"""What MLflow shows at first: the columns that matter, the best run first; kept as a shared view of MLflow's own."""

import json

from raydd.tracking.connection import connect

KEY = "raydd"
COLUMNS = (
    "attributes.`Description`",
    "metrics.`val/r_mean`",
    "metrics.`test/r_mean`",
    "metrics.`val/IR_at_1`",
    "metrics.`val/TR_at_1`",
    "metrics.`collapse/modality_gap`",
    "metrics.`seconds`",
    "metrics.`bytes`",
    "params.`distill.pairs`",
    "params.`distill.blend`",
    "params.`distill.loss`",
    "params.`distill.image_lr`",
    "params.`distill.target_epochs`",
    "tags.`kind`",
)


def keep_view(address: str) -> str:
    """Keep the view with the experiment; gives the address of its page, below the server's."""
    connection = connect(address)
    view = {
        "searchFilter": "",
        "orderByKey": "metrics.`val/r_mean`",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": list(COLUMNS),
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
    }
    connection.client.set_experiment_tag(
        connection.experiment, f"mlflow.sharedViewState.{KEY}", json.dumps(view, separators=(",", ":"))
    )
    # Else MLflow takes the runs for a chat application's and opens a page without them.
    connection.client.set_experiment_tag(connection.experiment, "mlflow.experimentKind", "custom_model_development")
    return f"/#/experiments/{connection.experiment}/runs?viewStateShareKey={KEY}"
