"""A sweep whose store is a bucket: what it asks of the service, and that nobody's secret gets anywhere."""

from pathlib import Path

import pytest
from mlflow import MlflowClient
from s3_server import BUCKET, KEYS, Server


@pytest.mark.slow
def test_eight_trials_with_experts_on_a_bucket(settings: dict, drive, s3: Server, tmp_path: Path):
    home = Path(settings["place.home"])
    mlflow = f"sqlite:///{home}/mlflow.db"
    home.mkdir()
    client = MlflowClient(mlflow)
    client.create_experiment("raydd", artifact_location=f"s3://{BUCKET}/mlflow")
    settings = {
        **settings,
        "experts.count": 4,
        "sweep.trials": 8,
        "sweep.finalists": 1,
        "place.store": f"s3://{BUCKET}/raydd",
        "place.mlflow": mlflow,
    }
    assert drive(settings, tmp_path / "log").wait(900) == 0, (tmp_path / "log").read_text()
    kinds = {method: s3.count(method) for method in ("HEAD", "GET", "PUT", "POST", "DELETE")}
    print(f"{len(s3.requests)} requests {kinds}, {len(s3.listings)} listings, {s3.received} bytes up, {s3.sent} down")
    ours = [(method, path) for method, path, _ in s3.requests if path.startswith(f"/{BUCKET}/raydd/")]
    for stage in ("pairs", "features", "experts", "synthetic", "scores", "ray-runs"):
        of_stage = [method for method, path in ours if path.startswith(f"/{BUCKET}/raydd/{stage}/")]
        print(f"  {stage}: {len(of_stage)}, {of_stage.count('HEAD')} HEAD, {of_stage.count('GET')} GET")
    fetched = [path for method, path in ours if method == "GET" and "/experts/" in path]
    assert len(fetched) == len(set(fetched))  # each snapshot once a node, whatever the number of trials
    assert all("prefix=raydd%2F" in query or "prefix=mlflow" in query for query in s3.listings)
    run = client.search_runs([client.get_experiment_by_name("raydd").experiment_id], "tags.`raydd.trial` LIKE '%/0'")[0]
    assert "synthetic/synthetic.safetensors" in {
        item.path for item in client.list_artifacts(run.info.run_id, "synthetic")
    }
    secrets = [value.encode() for value in KEYS.values()]
    written = [path for path in tmp_path.rglob("*") if path.is_file() and "session_" not in str(path)]
    objects = s3.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    keys = [item["Key"] for page in objects for item in page["Contents"]]
    contents = [path.read_bytes() for path in written]
    contents += [s3.client.get_object(Bucket=BUCKET, Key=key)["Body"].read() for key in keys]
    assert not [secret for content in contents for secret in secrets if secret in content]
