"""cluster.yaml against what Ray and AWS take, and the policies against more rights than are needed."""

import json
from pathlib import Path

import boto3
import jsonschema
import pytest
import ray.autoscaler
import yaml
from botocore.validate import ParamValidator
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.autoscaler_pb2 import GangResourceRequest

REPOSITORY = Path(__file__).parents[2]
GPU_MACHINE = {"CPU": 16, "GPU": 1}


@pytest.fixture
def cluster():
    return yaml.safe_load((REPOSITORY / "cluster.yaml").read_text())


def test_ray_takes_the_file(cluster):
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    jsonschema.validate(cluster, schema)
    prepared = prepare_config(cluster)
    validate_config(prepared)
    assert {name: kind["max_workers"] for name, kind in prepared["available_node_types"].items()} == {
        "head": 0, "gpu_on_demand": 8, "gpu_spot": 8,
    }  # fmt: skip
    # Ray's default would install another Ray into the image.
    assert prepared["setup_commands"] == prepared["head_setup_commands"] == prepared["worker_setup_commands"] == []


def test_aws_takes_every_node_type(cluster):
    run_instances = boto3.client("ec2", region_name="us-east-1").meta.service_model.operation_model("RunInstances")
    for name, kind in cluster["available_node_types"].items():
        report = ParamValidator().validate(
            {**kind["node_config"], "MinCount": 1, "MaxCount": 1}, run_instances.input_shape
        )
        assert not report.has_errors(), f"{name}: {report.generate_report()}"
    types = {name: kind["node_config"] for name, kind in cluster["available_node_types"].items()}
    spot = dict(types["gpu_spot"])
    assert spot.pop("InstanceMarketOptions") == {"MarketType": "spot"}
    assert spot == types["gpu_on_demand"]
    assert "InstanceMarketOptions" not in types["head"]


def launched(cluster, *, gpus, unavailable=()):
    """Node types that Ray's autoscaler starts for so many GPUs, as dxmc asks for them."""
    config = prepare_config(cluster)
    for name, kind in config["available_node_types"].items():
        kind["resources"] = {"CPU": 8} if name == "head" else GPU_MACHINE
    parsed = AutoscalingConfig(config, skip_content_hash=True)
    bundles = [ResourceRequestUtil.make({"GPU": 1}) for _ in range(gpus)]
    request = SchedulingRequest(
        disable_launch_config_check=True,
        node_type_configs=parsed.get_node_type_configs(),
        max_num_nodes=parsed.get_max_num_worker_nodes(),  # the head is there
        gang_resource_requests=[GangResourceRequest(requests=bundles)],
        cloud_resource_availabilities=dict.fromkeys(unavailable, 0.0),
        recoverable_resource_availabilities=dict.fromkeys(unavailable, 0.0),
    )
    reply = ResourceDemandScheduler(event_logger=None).schedule(request)
    return {launch.instance_type: launch.count for launch in reply.to_launch}, reply


def test_workers_are_spot_and_on_demand_while_there_is_no_spot(cluster):
    started, _ = launched(cluster, gpus=4)
    assert started == {"gpu_spot": 4}
    started, _ = launched(cluster, gpus=4, unavailable=["gpu_spot"])
    assert started == {"gpu_on_demand": 4}


def test_no_more_workers_than_the_maximum(cluster):
    started, reply = launched(cluster, gpus=9)
    assert started == {}
    assert len(reply.infeasible_gang_resource_requests) == 1


def statements(name):
    return json.loads((REPOSITORY / "deploy" / "aws" / name).read_text())["Statement"]


def listed(value):
    return [value] if isinstance(value, str) else value


@pytest.mark.parametrize("name", ["data-policy.json", "head-policy.json"])
def test_policies_name_actions_and_places(name):
    for statement in statements(name):
        assert statement["Effect"] == "Allow"
        assert not any("*" in action for action in listed(statement["Action"]))
        describes_only = all(action.startswith("ec2:Describe") for action in listed(statement["Action"]))
        assert describes_only or "*" not in listed(statement["Resource"]), statement["Sid"]


def test_the_head_may_pass_the_role_of_the_workers_and_start_their_machine(cluster):
    by_sid = {statement["Sid"]: statement for statement in statements("head-policy.json")}
    worker = cluster["available_node_types"]["gpu_spot"]["node_config"]
    assert by_sid["GiveWorkersTheirRole"]["Resource"].endswith(f"role/{worker['IamInstanceProfile']['Name']}")
    assert by_sid["StartMachines"]["Condition"]["StringEquals"] == {
        "aws:RequestTag/ray-cluster-name": cluster["cluster_name"],
        "ec2:InstanceType": worker["InstanceType"],
    }
