"""Which calls grpc repeats by itself, and how: the service config that every client's channel carries.

grpc applies the policy until the first response message, honours `grpc-retry-pushback-ms` in a status'
trailing metadata, and repeats only calls named here: those that change nothing, and those that the server
knows by their idempotency key.
"""

import json
from typing import Final

MAX_ATTEMPTS: Final = 4
"""The first one included."""

_SAFE_METHODS: Final = {
    "loramux.inference.v1.InferenceService": ("Generate",),
    "loramux.deployment.v1.DeploymentService": (
        "ListBaseModels",
        "CreateDeployment",
        "GetDeployment",
        "ListDeployments",
        "WatchDeployment",
        "ListDeploymentVersions",
    ),
    "loramux.account.v1.AccountService": (
        "CreateAccount",
        "CreateKey",
        "GrantCredit",
        "ListAccounts",
        "QueryUsage",
        "RefundRequest",
        "GetAccount",
        "ListKeys",
        "ListUsage",
        "GetBill",
    ),
}


def service_config() -> str:
    """The JSON of grpc's `grpc.service_config` channel option."""
    names = [
        {"service": service, "method": method}
        for service, methods in _SAFE_METHODS.items()
        for method in methods
    ]
    policy = {
        "maxAttempts": MAX_ATTEMPTS,
        "initialBackoff": "0.2s",
        "maxBackoff": "5s",
        "backoffMultiplier": 3,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    return json.dumps({"methodConfig": [{"name": names, "retryPolicy": policy}]})
