"""When a deployment has arrived at where a caller waits for it."""

import time

import grpc

from loramux import errors
from loramux.deployment.v1 import deployment_pb2


class DeploymentFailedError(errors.FailedPreconditionError):
    """A deployment that is waited for will not run; `reason` and `message` say why and what to do."""

    def __init__(self, deployment: deployment_pb2.Deployment) -> None:
        failure = deployment.failure
        if deployment.state == deployment_pb2.Deployment.STATE_DELETED:
            reason, message = "DEPLOYMENT_DELETED", f"{deployment.name} was deleted"
        else:
            reason, message = failure.reason, failure.message
        super().__init__(
            errors.ErrorDetails(
                code=grpc.StatusCode.FAILED_PRECONDITION,
                message=message,
                reason=reason,
                metadata=dict(failure.metadata),
            )
        )
        self.deployment = deployment

    def __reduce__(self) -> tuple[type["DeploymentFailedError"], tuple[deployment_pb2.Deployment]]:  # type: ignore[override]
        """See LoramuxError; made from the deployment."""
        return type(self), (self.deployment,)


class Wait:
    """A wait for a deployment to run, over as many watch calls as it takes."""

    def __init__(self, name: str, timeout: float | None) -> None:
        """`timeout` in seconds; None waits for as long as it takes."""
        self._name = name
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._heard = False

    def seconds_left(self) -> float | None:
        """For the next call's deadline."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def is_over(self, deployment: deployment_pb2.Deployment) -> bool:
        """Whether it serves, and no update of it is under way. Raises DeploymentFailedError if it never will."""
        self._heard = True
        if deployment.state in (
            deployment_pb2.Deployment.STATE_FAILED,
            deployment_pb2.Deployment.STATE_DELETED,
        ):
            raise DeploymentFailedError(deployment)
        return deployment.state == deployment_pb2.Deployment.STATE_RUNNING and not deployment.HasField(
            "candidate"
        )

    def may_watch_again(self) -> bool:
        """Whether a call that broke had got through; one that never did was retried enough already."""
        heard, self._heard = self._heard, False
        return heard

    def ended_early(self) -> errors.InternalError:
        """To raise when a watch ends by itself: that is for deleted deployments only."""
        return errors.InternalError(
            errors.ErrorDetails(grpc.StatusCode.INTERNAL, f"the watch of {self._name} ended early")
        )
