"""What a tokenizer's own files say, a base's or an adapter repo's: chat template, special tokens, added tokens."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, cast

from services.common.adapters import strict_json

TEMPLATE = "chat_template.jinja"
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"

_ADDED_TOKENS = re.compile(r'"added_tokens"\s*:\s*(?=\[)')


def chat_template(value: object) -> str:
    """The one that applies without a name, of `chat_template` in tokenizer_config.json; empty where there is none.

    Raises ValueError for what transformers would not take for a template, or for several by name.
    """
    match value:
        case None:
            return ""
        case str():
            return value
        case list() if all(isinstance(one, dict) and isinstance(one.get("name"), str) for one in value):
            return chat_template({one["name"]: one.get("template") for one in value}.get("default"))
        case dict() if value:
            return chat_template(value.get("default"))
        case _:
            raise ValueError("a template as text, or a list of templates with name and template")


def special_tokens(config: Mapping[str, Any]) -> dict[str, str]:  # Any: JSON values
    """Every `*_token` of a tokenizer's config: a string, or an object that has it as `content`."""
    found = {}
    extra = config.get("extra_special_tokens")  # a model's own by name, as transformers 4 wrote them
    named = extra if isinstance(extra, dict) else {}
    for key, value in (*named.items(), *config.items()):
        content = value.get("content") if isinstance(value, dict) else value
        if key.endswith("_token") and isinstance(content, str):
            found[key] = content
    return found


def added_tokens(tokenizer_json: bytes) -> dict[str, int]:
    """Token ids by content, of the tokens in a tokenizer.json that are found in a text before all others.

    The file's beginning is enough: `tokenizers` writes them ahead of the model. Raises ValueError where they are cut
    off, or not what they should be; there are none where the file has no such list.
    """
    text = tokenizer_json.decode(errors="replace")
    begin = _ADDED_TOKENS.search(text)
    if begin is None:
        return {}
    tokens, _ = json.JSONDecoder().raw_decode(text, begin.end())
    return tokens_by_content(
        (token.get("id") if isinstance(token, dict) else None, token) for token in tokens
    )


def tokens_by_content(tokens: Iterable[tuple[object, object]]) -> dict[str, int]:
    """Ids by content, of ids and tokens. Raises ValueError where one is not what it should be."""
    found = {}
    for number, token in tokens:
        content = token.get("content") if isinstance(token, dict) else None
        if not isinstance(content, str) or not strict_json.is_int(number):
            raise ValueError("it holds a token without an id or a content")
        found[content] = cast("int", number)
    return found


def token_id(tokenizer_json: bytes, content: str) -> int | None:
    """The id of a token of a whole tokenizer.json, an added one or one of the model's; None where it has none."""
    known = added_tokens(tokenizer_json).get(content)
    if known is not None:
        return known
    vocabulary = json.loads(tokenizer_json).get("model", {}).get("vocab", {})
    if isinstance(vocabulary, list):  # Unigram's: pieces and their scores, by id
        return next((place for place, (piece, _) in enumerate(vocabulary) if piece == content), None)
    found = vocabulary.get(content)
    return found if isinstance(found, int) else None
