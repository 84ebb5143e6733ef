"""What callers do about deployments, and who may: the one use case behind every edge."""

from collections.abc import AsyncGenerator
from typing import Protocol

from services.gateway.accounts.auth import Principal
from services.gateway.accounts.paging import Page
from services.gateway.deployments.deployment_values import (
    BaseModelView,
    DeploymentChange,
    DeploymentQuery,
    DeploymentView,
    NewDeployment,
    PageRequest,
    VersionView,
)


class DeploymentRegistry(Protocol):
    """Who keeps deployments.

    Every method acts for an account, and raises the registry's own errors, or UnavailableError where it cannot be
    reached.
    """

    async def list_base_models(self, account: str, page: PageRequest) -> Page[BaseModelView]: ...

    async def create(self, account: str, wanted: NewDeployment) -> DeploymentView: ...

    async def get(self, account: str, name: str) -> DeploymentView: ...

    async def list(self, account: str, query: DeploymentQuery, page: PageRequest) -> Page[DeploymentView]: ...

    async def update(self, account: str, change: DeploymentChange) -> DeploymentView: ...

    async def delete(self, account: str, name: str, etag: str) -> DeploymentView: ...

    async def list_versions(self, account: str, name: str, page: PageRequest) -> Page[VersionView]: ...

    async def roll_back(self, account: str, name: str, version: int, etag: str) -> DeploymentView: ...

    def watch(self, account: str, name: str) -> AsyncGenerator[DeploymentView]: ...


class DeploymentDesk:
    """Deployments, for whoever calls.

    They belong to accounts: the operator's key raises PermissionDeniedError. Other errors are those of
    DeploymentRegistry, whose methods these are.
    """

    def __init__(self, registry: DeploymentRegistry) -> None:
        self._registry = registry

    async def list_base_models(self, principal: Principal, page: PageRequest) -> Page[BaseModelView]:
        """What adapters can be deployed on."""
        return await self._registry.list_base_models(principal.member(), page)

    async def create(self, principal: Principal, wanted: NewDeployment) -> DeploymentView:
        """Take a name, and begin."""
        return await self._registry.create(principal.member(), wanted)

    async def get(self, principal: Principal, name: str) -> DeploymentView:
        """A deployment as it is."""
        return await self._registry.get(principal.member(), name)

    async def list(
        self, principal: Principal, query: DeploymentQuery, page: PageRequest
    ) -> Page[DeploymentView]:
        """The caller's deployments."""
        return await self._registry.list(principal.member(), query, page)

    async def update(self, principal: Principal, change: DeploymentChange) -> DeploymentView:
        """Another version under the same name, or other settings."""
        return await self._registry.update(principal.member(), change)

    async def delete(self, principal: Principal, name: str, etag: str) -> DeploymentView:
        """Free a name."""
        return await self._registry.delete(principal.member(), name, etag)

    async def list_versions(self, principal: Principal, name: str, page: PageRequest) -> Page[VersionView]:
        """The versions that have served under a name, newest first."""
        return await self._registry.list_versions(principal.member(), name, page)

    async def roll_back(self, principal: Principal, name: str, version: int, etag: str) -> DeploymentView:
        """Put an earlier version back."""
        return await self._registry.roll_back(principal.member(), name, version, etag)

    def watch(self, principal: Principal, name: str) -> AsyncGenerator[DeploymentView]:
        """A deployment as it is, then each change, until it is deleted or the gateway drains (UnavailableError)."""
        return self._registry.watch(principal.member(), name)
