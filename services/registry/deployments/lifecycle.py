"""How a deployment becomes the next: pure functions from one value to another.

INITIALIZING -> DEPLOYING -> RUNNING, FAILED from either of the first two, DELETED from anywhere. An update of a
RUNNING one keeps it RUNNING and walks a candidate through the same steps; of any other, it starts over.
"""

from dataclasses import replace

from services.common.errors import StaleEtagError, shorten
from services.registry.deployments.deployment import Adapter, AdapterVersion, Deployment, Failure, State

_MAX_STATUS = 512
_SERVING = "serving"


class SupersededError(Exception):
    """The owner has updated or deleted the deployment since this work began."""


def check_etag(deployment: Deployment, etag: str) -> None:
    """Raise StaleEtagError where an etag was sent and is not the present one."""
    if etag and etag != deployment.etag:
        raise StaleEtagError(deployment.name)


def check_generation(deployment: Deployment, generation: int) -> None:
    """Raise SupersededError where work begun for `generation` no longer counts."""
    if deployment.generation != generation:
        raise SupersededError


def updated(deployment: Deployment, adapter: Adapter) -> Deployment:
    """Its owner wants `adapter` instead."""
    generation = deployment.generation + 1
    if deployment.state is State.RUNNING:
        return replace(
            deployment,
            candidate=adapter,
            failure=None,
            generation=generation,
            status_message=f"serving; {checking(adapter)} to replace it",
        )
    return replace(
        deployment,
        state=State.INITIALIZING,
        serving=adapter,
        failure=None,
        generation=generation,
        status_message=checking(adapter),
    )


def token_renewed(deployment: Deployment, hub_token: bytes | None) -> Deployment:
    """Its owner has another Hub token for what serves. Nothing is loaded anew: the content is the same."""
    return replace(
        deployment,
        serving=replace(deployment.serving, hub_token=hub_token),
        failure=None,
        status_message=_SERVING,
    )


def admitted(deployment: Deployment, version: AdapterVersion) -> Deployment:
    """What it waits for has passed admission, and is numbered: what serves already keeps its number."""
    known = deployment.serving.version == version
    number = deployment.serving.number if known else deployment.versions + 1
    adapter = replace(deployment.wanted, version=version, number=number)
    numbered = replace(deployment, versions=max(deployment.versions, number))
    if deployment.candidate is not None:
        admitted = replace(numbered, candidate=adapter)
    else:
        admitted = replace(numbered, state=State.DEPLOYING, serving=adapter)
    return progressed(admitted, "checked; looking for a worker to load it")


def progressed(deployment: Deployment, message: str) -> Deployment:
    """Work goes on as `message` says."""
    prefix = "serving; for the update: " if deployment.candidate is not None else ""
    return replace(deployment, status_message=shorten(prefix + message, _MAX_STATUS))


def loaded(deployment: Deployment) -> Deployment:
    """A worker has loaded and probed what it waits for."""
    return replace(
        deployment,
        state=State.RUNNING,
        serving=deployment.wanted,
        candidate=None,
        failure=None,
        status_message=_SERVING,
    )


def failed(deployment: Deployment, failure: Failure) -> Deployment:
    """What it waits for was refused. What serves already goes on."""
    if deployment.candidate is not None:
        return replace(
            deployment,
            candidate=None,
            failure=failure,
            status_message="serving; the last update failed, and what served before goes on",
        )
    return replace(
        deployment, state=State.FAILED, failure=failure, status_message="failed; update or delete it"
    )


def deleted(deployment: Deployment) -> Deployment:
    """Its owner has deleted it; no secret is kept."""
    return replace(
        deployment,
        state=State.DELETED,
        serving=replace(deployment.serving, hub_token=None),
        candidate=None,
        generation=deployment.generation + 1,
        status_message="deleted",
    )


def checking(adapter: Adapter) -> str:
    """What is happening while an adapter is admitted."""
    at = f" at {adapter.revision}" if adapter.revision else ""
    return f"checking {adapter.hub_repo}{at} on the Hub"
