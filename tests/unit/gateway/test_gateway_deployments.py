"""Deployments through the gateway's values: what the contract can say, they carry, both ways."""

from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from loramux.deployment.v1 import deployment_pb2 as pb
from services.common.errors import InvalidFieldError, PermissionDeniedError
from services.gateway.accounts.accounts import AccountLimits
from services.gateway.accounts.auth import Principal
from services.gateway.deployments.deployment_desk import DeploymentDesk
from services.gateway.deployments.deployment_values import (
    DeploymentChange,
    DeploymentQuery,
    NewDeployment,
    PageRequest,
)
from services.gateway.rpc import deployment_messages as edge
from services.gateway.upstream import registry_messages as upstream
from services.gateway.upstream.deployment_client import DeploymentClient


def filled(message: Message, oneof: int = 0) -> Any:
    """The message with every field set, so that one which is not carried over is missed; of a oneof, one field."""
    for field in message.DESCRIPTOR.fields:
        group = field.containing_oneof
        if group is not None and len(group.fields) > 1 and group.fields[oneof] is not field:
            continue
        _fill(message, field, oneof)
    return message


def _fill(message: Message, field: Any, oneof: int) -> None:
    value = getattr(message, field.name)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        value["key"] = "value"
    elif field.message_type is not None:
        filled(value, oneof)
        value.SetInParent()
    else:
        one = {FieldDescriptor.CPPTYPE_STRING: "text", FieldDescriptor.CPPTYPE_BOOL: True}.get(
            field.cpp_type, 7_000 if field.name == "nanos" else 7
        )
        if field.is_repeated:
            value.append(one)
        else:
            setattr(message, field.name, one)


@pytest.mark.parametrize("target", [0, 1])
def test_a_deployment_comes_through_whole(target: int) -> None:
    message = filled(pb.Deployment(), target)
    assert message.state == 7  # of a newer registry
    assert edge.deployment_message(upstream.deployment(message)) == message


def test_a_version_and_a_base_model_come_through_whole() -> None:
    version, base = filled(pb.AdapterVersion()), filled(pb.BaseModel())
    assert edge.version_message(upstream.version(version)) == version
    assert edge.base_model_message(upstream.base_model(base)) == base


@pytest.mark.parametrize("target", [0, 1])
def test_what_a_caller_asks_for_reaches_the_registry_whole(target: int) -> None:
    create = filled(pb.CreateDeploymentRequest(), target)
    update = filled(pb.UpdateDeploymentRequest(), target)
    asked = filled(pb.ListDeploymentsRequest(), target)
    assert upstream.create_request(edge.new_deployment(create)) == create
    assert upstream.update_request(edge.change(update)) == update
    assert upstream.list_request(edge.query(asked), edge.page_request(asked)) == asked


def test_what_is_unset_stays_unset() -> None:
    create, update = pb.CreateDeploymentRequest(deployment_id="x"), pb.UpdateDeploymentRequest(name="a/x")
    cleared = pb.UpdateDeploymentRequest(name="a/x", hub_token="", revision="", use_base_template=False)
    assert upstream.create_request(edge.new_deployment(create)) == create
    assert upstream.update_request(edge.change(update)) == update
    assert upstream.update_request(edge.change(cleared)) == cleared
    assert upstream.list_request(DeploymentQuery(), PageRequest()) == pb.ListDeploymentsRequest()


def test_states_are_counted_before_they_are_read() -> None:
    with pytest.raises(InvalidFieldError, match="at most 32"):
        edge.query(pb.ListDeploymentsRequest(states=[pb.Deployment.STATE_RUNNING] * 33))


def test_tokens_are_not_in_what_logs_would_show() -> None:
    assert "hf_secret" not in repr(NewDeployment("x", "o/r", hub_token="hf_secret"))
    assert "hf_secret" not in repr(DeploymentChange("a/x", hub_token="hf_secret"))


async def test_the_operator_has_no_deployments() -> None:
    desk = DeploymentDesk(DeploymentClient.__new__(DeploymentClient))  # never asked
    operator = Principal(account="", key="", is_operator=True, limits=AccountLimits())
    with pytest.raises(PermissionDeniedError):
        await desk.get(operator, "acme/pirate")
    with pytest.raises(PermissionDeniedError):
        desk.watch(operator, "acme/pirate")
