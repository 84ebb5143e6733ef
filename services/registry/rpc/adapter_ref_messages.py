"""An adapter version as the message by which gateways and workers name it."""

from loramux.fleet.v1 import fleet_pb2
from services.registry.deployments.deployment import AdapterVersion


def adapter_ref(version: AdapterVersion, deployment_uid: str) -> fleet_pb2.AdapterRef:
    """As a worker fetches it; `deployment_uid` is empty where no Hub token is stored."""
    return fleet_pb2.AdapterRef(
        digest=version.digest,
        hub_repo=version.hub_repo,
        commit=version.commit,
        config_sha256=version.config_sha256,
        weights_sha256=version.weights_sha256,
        size_bytes=version.size_bytes,
        deployment_uid=deployment_uid,
    )
