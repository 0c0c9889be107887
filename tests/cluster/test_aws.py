"""Ray's own AWS code on gpu.yaml and the account that aws.yaml sets up, against moto's EC2, IAM and CloudFormation."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from botocore.client import BaseClient
from botocore.exceptions import ClientError
from cfnlint.api import lint_all
from moto import mock_aws
from moto.core import set_initial_no_auth_action_count
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.util import prepare_config

FOLDER = Path(__file__).parents[2] / "cluster"
TEMPLATE = (FOLDER / "aws.yaml").read_text(encoding="utf-8")
REGION = "us-west-2"
IMAGE = "ami-12c6146b"  # one that moto has; its EC2 does not look into SSM


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """An AWS account in which the stack was deployed; gives gpu.yaml as Ray completes it there."""
    keys = {"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none", "AWS_DEFAULT_REGION": REGION}
    with pytest.MonkeyPatch.context() as patch, mock_aws():
        for name, value in {**keys, "HOME": str(tmp_path_factory.mktemp("home"))}.items():  # Ray writes a key to ~/.ssh
            patch.setenv(name, value)
        patch.delenv("AWS_ENDPOINT_URL", raising=False)
        for bucket in ("kept", "of-others"):
            boto3.client("s3").create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
        boto3.client("cloudformation").create_stack(
            StackName="raydd",
            TemplateBody=TEMPLATE,
            Parameters=[{"ParameterKey": "Bucket", "ParameterValue": "kept"}],
            Capabilities=["CAPABILITY_NAMED_IAM"],
        )
        config = AWSNodeProvider.bootstrap_config(prepare_config(yaml.safe_load((FOLDER / "gpu.yaml").read_text())))
        for kind in config["available_node_types"].values():
            assert kind["node_config"]["ImageId"].startswith("resolve:ssm:/aws/service/")
            kind["node_config"]["ImageId"] = IMAGE
        yield config


def launched(config: dict[str, Any], kind: str) -> tuple[AWSNodeProvider, Any]:
    """Ray's provider, and the EC2 instance that it starts for a kind of node: the head as `ray up` does."""
    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    own = config["available_node_types"][kind]["node_config"]
    node = {**config["head_node"], **own} if kind == "head" else own
    (created,) = provider.create_node(node, {"ray-node-status": "uninitialized"}, 1).values()
    return provider, created


def rights_of(instance: Any) -> tuple[str, set[str]]:
    """The role that a machine ends with, and the actions that its policies allow."""
    iam = boto3.resource("iam")
    (role,) = iam.InstanceProfile(instance.iam_instance_profile["Arn"].rpartition("/")[2]).roles
    statements = [one for each in role.attached_policies.all() for one in each.default_version.document["Statement"]]
    assert not list(role.policies.all())
    actions = [one["Action"] if isinstance(one["Action"], list) else [one["Action"]] for one in statements]
    return role.name, {action for some in actions for action in some}


def test_the_template_is_cloudformation_s():
    assert [found for found in lint_all(TEMPLATE) if found.rule.severity != "informational"] == []


def test_head_and_workers_end_with_roles_of_their_own(account: dict[str, Any]):
    head, may_head = rights_of(launched(account, "head")[1])
    worker, may_worker = rights_of(launched(account, "worker")[1])
    assert (head, worker) == ("raydd-head", "raydd-worker")
    assert may_worker >= {"s3:ListBucket", "s3:GetObject", "s3:PutObject", "s3:DeleteObject"}
    assert all(action.startswith("s3:") for action in may_worker)
    assert may_head >= may_worker
    # What RunInstances asks for beside itself: tags, the worker's role, the image's name, the first spot machine.
    assert may_head >= {"ec2:CreateTags", "iam:PassRole", "ssm:GetParameters", "iam:CreateServiceLinkedRole"}


def test_the_head_may_do_all_that_ray_does_there(account: dict[str, Any], monkeypatch: pytest.MonkeyPatch):
    _, may_head = rights_of(launched(account, "head")[1])
    asked, call = set(), BaseClient._make_api_call

    def noted(client: Any, operation: str, parameters: dict[str, Any]) -> Any:
        asked.add(f"{client.meta.service_model.service_name}:{operation}")
        return call(client, operation, parameters)

    monkeypatch.setattr(BaseClient, "_make_api_call", noted)
    provider, worker = launched(account, "worker")
    provider.non_terminated_nodes({})
    provider.set_node_tags(worker.id, {"ray-node-status": "up-to-date"})
    provider.terminate_node(worker.id)
    assert {"ec2:RunInstances", "ec2:CreateTags", "ec2:DescribeInstances", "ec2:TerminateInstances"} <= asked
    assert asked <= may_head


def test_a_worker_reaches_the_bucket_and_nothing_else(account: dict[str, Any]):
    role = boto3.client("iam").get_role(RoleName="raydd-worker")["Role"]["Arn"]
    keys = boto3.client("sts").assume_role(RoleArn=role, RoleSessionName="test")["Credentials"]
    worker = boto3.Session(keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"], region_name=REGION)
    s3, ec2 = worker.client("s3"), worker.client("ec2")

    @set_initial_no_auth_action_count(0)
    def guarded() -> None:
        s3.put_object(Bucket="kept", Key="raydd/record", Body=b"1")
        s3.list_objects_v2(Bucket="kept")
        s3.delete_object(Bucket="kept", Key="raydd/record")
        with pytest.raises(ClientError, match="AccessDenied"):
            s3.put_object(Bucket="of-others", Key="record", Body=b"1")
        with pytest.raises(ClientError, match="AccessDenied"):
            ec2.describe_instances()

    guarded()
