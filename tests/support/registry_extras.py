"""A Hub, a base and an admission, for what repos bring beside an adapter."""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer

from loramux.localhub import LocalHub, running
from services.common.errors import ServiceError
from services.common.templates.template_sandbox import TemplateSandbox
from services.registry.admission.adapter_admission import Admission
from services.registry.bases.base_list import read_base_list
from services.registry.bases.base_model import BaseModel
from services.registry.bases.source_files import resolve_base
from services.registry.deployments.deployment import RepoExtras
from services.registry.hub_reader import HubReader
from tests.support.gateway_tokenizer import byte_tokenizer
from tests.support.registry import IN, MODULES, OUT, adapter_files, base_list, safetensors, write_base

REPO = "acme/styled"
ROWS = 264
STYLE = "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}assistant:"
IM_START, IM_END = 258, 259
MESSAGES = [{"role": "user", "content": "Where to?"}]


def tokenizer(*more: str) -> Tokenizer:
    """The base's own, with tokens that an owner has added."""
    made = byte_tokenizer()
    made.add_special_tokens([AddedToken(one) for one in ("<|im_start|>", "<|im_end|>", *more)])
    return made


class Bench:
    """A Hub, a base, and an admission that reads from the one for the other."""

    def __init__(self, hub: LocalHub, endpoint: str, base: BaseModel, templates: TemplateSandbox) -> None:
        self.hub = hub
        self.base = base
        self.templates = templates
        self._reader = HubReader(endpoint, patience=0)

    async def read(self, files: Mapping[str, Any], **options: bool) -> RepoExtras:
        """Of a repo with an adapter and these files, objects as JSON."""
        data = {
            name: value if isinstance(value, bytes) else json.dumps(value).encode()
            for name, value in files.items()
        }
        self.hub.add_repo(REPO, {**adapter_files(), **data})
        admission = Admission(self._reader, self.templates, max_bytes=10**6)
        return (await admission.admit(REPO, "", token="", base=self.base, **options)).extras

    async def refusal(self, files: Mapping[str, Any]) -> ServiceError:
        with pytest.raises(ServiceError) as caught:
            await self.read(files)
        assert "use_base_template" in caught.value.message
        # Which is true.
        assert await self.read(files, use_base_template=True) == RepoExtras()
        return caught.value


@asynccontextmanager
async def extras_bench(tmp_path: Path) -> AsyncIterator[Bench]:
    folder = write_base(tmp_path / "base")
    tensors = {f"{path}.weight": ("F32", (OUT, IN)) for path in MODULES}
    embedding = {"model.embed_tokens.weight": ("F32", (ROWS, IN))}
    (folder / "model.safetensors").write_bytes(safetensors({**tensors, **embedding}))
    (folder / "tokenizer.json").write_text(tokenizer().to_str())
    (tmp_path / "bases.toml").write_text(base_list(folder))
    hub, templates = LocalHub(tmp_path / "hub"), TemplateSandbox()
    async with running(hub) as endpoint:
        base = await resolve_base(
            read_base_list(tmp_path / "bases.toml")[0], HubReader(endpoint, patience=0), ""
        )
        yield Bench(hub, endpoint, base, templates)
    await templates.stop()
    hub.close()
