"""The base models on offer."""

from collections.abc import Iterable, Sequence

from services.common.errors import NotFoundError
from services.registry.bases.base_model import BaseModel
from services.registry.deployments.page_tokens import PageTokens, page_size
from services.registry.deployments.sealing import Sealer


class Catalog:
    """Base models by name, in the operator's order. They do not change while the registry runs."""

    def __init__(self, base_models: Iterable[BaseModel], sealer: Sealer) -> None:
        self.by_name = {base.name: base for base in base_models}
        self._tokens = PageTokens(sealer, ("ListBaseModels",))

    def get(self, name: str) -> BaseModel:
        """Raises NotFoundError."""
        if name not in self.by_name:
            raise NotFoundError("base_model", name)
        return self.by_name[name]

    def page(self, asked_size: int, page_token: str) -> tuple[Sequence[BaseModel], str]:
        """A page, and the token of the next one. Raises InvalidFieldError."""
        size = page_size(asked_size)
        names = list(self.by_name)
        last = self._tokens.read(page_token)
        # A name that the operator has dropped since: the list begins anew.
        begin = names.index(last) + 1 if last in names else 0
        page = [self.by_name[name] for name in names[begin : begin + size]]
        more = begin + size < len(names)
        return page, self._tokens.write(page[-1].name) if more else ""
