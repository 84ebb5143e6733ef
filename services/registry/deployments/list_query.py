"""What a list of deployments holds, and in which order: one page is a place in it and a size."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from services.common.errors import InvalidFieldError
from services.registry.deployments.deployment import Deployment, State

MAX_SEARCH_BYTES = 128


class Order(Enum):
    """By what entries are sorted; ties go by uid."""

    CREATE_TIME = "create_time"
    """Oldest first."""
    CREATE_TIME_DESCENDING = "create_time desc"
    NAME = "name"


@dataclass(frozen=True)
class ListQuery:
    """Which of an account's deployments; the deleted ones are in no list."""

    states: Collection[State] = ()
    """None means all."""
    search: str = ""
    """Part of the name or of the Hub repo, whatever its case."""
    order: Order = Order.CREATE_TIME

    def check(self) -> None:
        """Raise InvalidFieldError where the search is out of bounds."""
        # A character has at most four bytes, so what is far too long is not encoded first.
        too_long = len(self.search) > MAX_SEARCH_BYTES or len(self.search.encode()) > MAX_SEARCH_BYTES
        if too_long or not self.search.isprintable():
            raise InvalidFieldError("search", self.search, f"at most {MAX_SEARCH_BYTES} printable bytes")

    def words(self) -> tuple[str, ...]:
        """The query, as what a page token is bound to."""
        return (self.order.value, ",".join(sorted({one.value for one in self.states})), self.search)


@dataclass(frozen=True)
class Place:
    """The last entry of a page, by everything that a list can be sorted by."""

    create_time: datetime
    uid: str
    deployment_id: str

    @classmethod
    def of(cls, deployment: Deployment) -> "Place":
        """Where a deployment stands."""
        return cls(deployment.create_time, deployment.uid, deployment.deployment_id)

    @classmethod
    def parse(cls, text: str) -> "Place | None":
        """The inverse of `text`; None for the beginning of the list."""
        if not text:
            return None
        moment, uid, deployment_id = text.split(" ")
        return cls(datetime.fromisoformat(moment), uid, deployment_id)

    def text(self) -> str:
        """As a page token holds it."""
        return f"{self.create_time.isoformat()} {self.uid} {self.deployment_id}"
