"""What an adapter's repo brings beside the adapter: its chat template, and the tokens that end its turns.

Trainers save their tokenizer beside the adapter. Of its files the words are read, and never a vocabulary: prompts are
encoded with the base's. A template or an end token that needs tokens which the base has not is refused by name.
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from services.common.adapters import strict_json
from services.common.errors import InvalidFieldError
from services.common.templates.chat_template import ChatTemplateError, TemplateWords
from services.common.templates.template_sandbox import TemplateSandbox
from services.registry.bases import tokenizer_files
from services.registry.bases.base_model import BaseModel
from services.registry.bases.tokenizer_files import TEMPLATE, TOKENIZER, TOKENIZER_CONFIG
from services.registry.deployments.deployment import RepoExtras
from services.registry.hub_reader import HubCommit, HubReader

MAX_TEMPLATE_BYTES = 64 * 1024
MAX_FILE_BYTES = 8 * 1024**2
"""Of a JSON file; and of a tokenizer.json the part that names added tokens."""
MAX_TOKENS = 64
"""Special tokens that a template looks up; and end tokens."""
_MAX_TOKEN_BYTES = 256
_MAX_TOKEN_ID = 1 << 31  # where a base's rows are not known

_GENERATION_CONFIG = "generation_config.json"
_ADDED_TOKENS = "added_tokens.json"
_SPECIAL_TOKENS = "special_tokens_map.json"
_WAY_OUT = "set use_base_template to serve with the base's own"

_Result = TypeVar("_Result")


class ExtrasReader:
    """Reads the files of repos that have passed as adapters."""

    def __init__(self, hub: HubReader, templates: TemplateSandbox) -> None:
        self._hub = hub
        self._templates = templates

    async def read(self, at: HubCommit, *, token: str, base: BaseModel) -> RepoExtras:
        """What a repo has at a commit; nothing is where the base's stands.

        Raises InvalidFieldError with reason ADAPTER_CHAT_FILES_INVALID or ADAPTER_TOKENS_UNKNOWN, and errors of the Hub.
        """
        config = await self._read_json(at, TOKENIZER_CONFIG, token)
        own_tokens = await self._special_tokens(at, token, config)
        special_tokens = base.tokenizer.special_tokens if own_tokens is None else own_tokens
        field, template = await self._template(at, token, config)
        words = await self._check(field, template)
        # The names that the template looks up are all that it can know.
        used = {name: content for name, content in special_tokens.items() if name in words.names}
        _check_used(used)
        end = (own_tokens or {}).get("eos_token", "")
        if template or end:
            place, added = await self._added_tokens(at, token, config)
            # The base's own tokens are what they are.
            needs = _Needs(words.text, {} if own_tokens is None else used, end)
            await asyncio.to_thread(_check_tokens, place, added, needs, base)
        end_ids = _listed_ends(await self._read_json(at, _GENERATION_CONFIG, token), base)
        if end:
            end_ids.add(await asyncio.to_thread(_known_id, f"{TOKENIZER_CONFIG}: eos_token", end, base))
        return RepoExtras(template, used, tuple(sorted(end_ids)))

    async def _template(self, at: HubCommit, token: str, config: Mapping[str, Any]) -> tuple[str, str]:
        """The template, after the name of the place that it is from: transformers prefers a file of its own."""
        field = TEMPLATE
        if TEMPLATE in at.files:
            _check_size(at, TEMPLATE, MAX_TEMPLATE_BYTES)
            data = await self._hub.read(at, TEMPLATE, token=token, length=MAX_TEMPLATE_BYTES)
            text = _parsed(TEMPLATE, data.decode)
        else:
            field = f"{TOKENIZER_CONFIG}: chat_template"
            text = _parsed(field, lambda: tokenizer_files.chat_template(config.get("chat_template")))
        size = len(_parsed(field, text.encode))  # strictly: half a surrogate pair is no text
        if size > MAX_TEMPLATE_BYTES:
            raise _invalid(field, f"{size} bytes", f"at most {MAX_TEMPLATE_BYTES} bytes")
        return field, text

    async def _check(self, field: str, template: str) -> TemplateWords:
        if not template:
            return TemplateWords(frozenset(), "")
        try:
            return await self._templates.check(template)
        except ChatTemplateError as error:
            raise _invalid(field, str(error), "a Jinja template as transformers takes it") from None

    async def _special_tokens(
        self, at: HubCommit, token: str, config: Mapping[str, Any]
    ) -> dict[str, str] | None:
        """None where the repo has no tokenizer: a template alone is for the base's."""
        if TOKENIZER_CONFIG not in at.files and _SPECIAL_TOKENS not in at.files:
            return None
        found = tokenizer_files.special_tokens(config)
        # For years tokens were in a file of their own, which counts where the config is of those years.
        if "added_tokens_decoder" not in config:
            found |= tokenizer_files.special_tokens(await self._read_json(at, _SPECIAL_TOKENS, token))
        return found

    async def _added_tokens(
        self, at: HubCommit, token: str, config: Mapping[str, Any]
    ) -> tuple[str, dict[str, int]]:
        """Ids of the repo's own added tokens by content, after the name of where its transformers wrote them."""
        decoder = config.get("added_tokens_decoder")
        if decoder is not None:
            place = f"{TOKENIZER_CONFIG}: added_tokens_decoder"
            return place, _parsed(place, lambda: _decoder_tokens(decoder))
        if TOKENIZER in at.files:
            data = await self._hub.read(at, TOKENIZER, token=token, length=MAX_FILE_BYTES)
            return TOKENIZER, await asyncio.to_thread(
                _parsed, TOKENIZER, lambda: tokenizer_files.added_tokens(data)
            )
        older = await self._read_json(at, _ADDED_TOKENS, token)
        return _ADDED_TOKENS, {
            content: number for content, number in older.items() if strict_json.is_int(number)
        }

    # Any: JSON values.
    async def _read_json(self, at: HubCommit, name: str, token: str) -> dict[str, Any]:
        """Empty where the repo has no such file."""
        if name not in at.files:
            return {}
        _check_size(at, name, MAX_FILE_BYTES)
        data = await self._hub.read(at, name, token=token, length=MAX_FILE_BYTES)
        return await asyncio.to_thread(_parsed, name, lambda: _object(data))


def _object(data: bytes) -> dict[str, Any]:  # Any: JSON values
    """As leniently as transformers reads it: nothing of it is computed with."""
    value = json.loads(data.decode("utf-8-sig"))
    if not isinstance(value, dict):
        raise TypeError(f"it is a {type(value).__name__}, not an object")
    return value


def _decoder_tokens(decoder: object) -> dict[str, int]:
    if not isinstance(decoder, dict):
        raise TypeError("it is no object from token id to token")
    return tokenizer_files.tokens_by_content((int(number), token) for number, token in decoder.items())


def _check_used(tokens: Mapping[str, str]) -> None:
    if len(tokens) > MAX_TOKENS:
        raise _invalid(
            TOKENIZER_CONFIG, f"{len(tokens)} special tokens", f"at most {MAX_TOKENS} in a template"
        )
    for name, content in tokens.items():
        field = f"{TOKENIZER_CONFIG}: {name[:64]}"
        size = max(len(_parsed(field, name.encode)), len(_parsed(field, content.encode)))
        if size > _MAX_TOKEN_BYTES:
            raise _invalid(field, f"{size} bytes", f"at most {_MAX_TOKEN_BYTES} bytes")


@dataclass(frozen=True)
class _Needs:
    """Where tokens of a repo matter."""

    text: str
    """What its template writes. What that puts together of pieces is not seen."""
    used: Mapping[str, str]
    """Special tokens that the template looks up, by name."""
    end: str
    """The end of a turn; empty where there is none."""


def _check_tokens(place: str, added: Mapping[str, int], needs: _Needs, base: BaseModel) -> None:
    """Raise for a token of the repo's that prompts or ends would need, and that is none, or another, in the base."""
    known = base.tokenizer.added_tokens
    for content, number in added.items():
        if (
            content
            and known.get(content) != number
            and (content in needs.text or content in needs.used.values())
        ):
            raise _unknown(place, content, number, base)
        # An end of turn is a number: what a text with it becomes does not matter.
        if content == needs.end and content and _known_id(place, content, base) != number:
            raise _unknown(place, content, number, base)
    for name, content in needs.used.items():
        if content and content not in known:
            raise _unknown(f"{TOKENIZER_CONFIG}: {name}", content, None, base)


def _known_id(field: str, content: str, base: BaseModel) -> int:
    """The base's id of a token. Raises InvalidFieldError."""
    known = base.tokenizer.added_tokens.get(content)
    if known is None:
        known = tokenizer_files.token_id(base.tokenizer.tokenizer_json, content)
    if known is None:
        raise _unknown(field, content, None, base)
    return known


def _listed_ends(config: Mapping[str, Any], base: BaseModel) -> set[int]:
    field = f"{_GENERATION_CONFIG}: eos_token_id"
    value = config.get("eos_token_id")
    listed = value if isinstance(value, list) else [] if value is None else [value]
    if len(listed) > MAX_TOKENS:
        raise _invalid(field, f"{len(listed)} ids", f"at most {MAX_TOKENS} ids")
    for one in listed:
        if not strict_json.is_int(one) or one < 0:
            raise _invalid(field, one, "a token id, or a list of them")
        rows = base.vocabulary_size or _MAX_TOKEN_ID
        if one >= rows:
            bound = f"token ids below {rows}, the rows of {base.name}; or {_WAY_OUT}"
            raise InvalidFieldError(field, one, bound, reason="ADAPTER_TOKENS_UNKNOWN")
    return set(listed)


def _check_size(at: HubCommit, name: str, most: int) -> None:
    if at.files[name].size > most:
        raise _invalid(name, f"{at.files[name].size} bytes", f"at most {most} bytes")


def _parsed(field: str, parse: Callable[[], _Result]) -> _Result:
    try:
        return parse()
    except json.JSONDecodeError as error:
        raise _invalid(
            field, str(error), f"JSON, what is read of it in its first {MAX_FILE_BYTES} bytes"
        ) from None
    except (ValueError, TypeError, LookupError, RecursionError, OverflowError) as error:
        raise _invalid(field, str(error) or type(error).__name__, "as transformers writes it") from None


def _invalid(field: str, value: object, bound: str) -> InvalidFieldError:
    return InvalidFieldError(field, value, f"{bound}; or {_WAY_OUT}", reason="ADAPTER_CHAT_FILES_INVALID")


def _unknown(field: str, content: str, number: int | None, base: BaseModel) -> InvalidFieldError:
    shown = repr(content) if number is None else f"{content!r} as token {number}"
    bound = f"tokens that {base.name} has too, under the same id, where the chat template or an end of turn needs them"
    return InvalidFieldError(field, shown, f"{bound}; or {_WAY_OUT}", reason="ADAPTER_TOKENS_UNKNOWN")
