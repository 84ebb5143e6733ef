"""Prompts to token ids, with a base model's own tokenizer, and its chat template or that of the adapter's repo."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from tokenizers import Tokenizer

from services.common import errors
from services.common.templates.chat_template import ChatTemplate, ChatTemplateError, words_of
from services.common.templates.template_sandbox import TemplateCostError, TemplateSandbox
from services.gateway.request import ChatMessage, ChatPrompt, Prompt, TextPrompt, TokenPrompt

# About a millisecond's work; beyond that the event loop would notice.
_INLINE_CHARACTERS = 2_000
_TURN_CHARACTERS = 40


@dataclass(frozen=True)
class TokenizerFiles:
    """A base model's tokenizer, as the registry hands it out."""

    commit: str
    chat_template: str
    """Jinja source; empty where the base has none."""
    special_tokens: Mapping[str, str]
    """By the names that templates use: bos_token, eos_token, ..."""
    tokenizer_json: bytes


@dataclass(frozen=True)
class RepoExtras:
    """What an adapter's repo brings beside the adapter, and is honoured."""

    chat_template: str = ""
    """Jinja source; empty where the base's stands."""
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    """What that template knows by name."""
    end_token_ids: tuple[int, ...] = ()
    """That end a turn, beside the base's."""


NO_EXTRAS = RepoExtras()


class PromptEncoder:
    """Encodes prompts for one base model and the adapters on it."""

    def __init__(self, files: TokenizerFiles, templates: TemplateSandbox) -> None:
        """`templates` renders those of adapters' repos. Raises ValueError or ChatTemplateError for bad files."""
        self._tokenizer: Tokenizer = Tokenizer.from_str(files.tokenizer_json.decode())
        # A tokenizer.json may carry both from the training; a prompt is never cut or filled up in silence.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._templates = templates
        self._source = files.chat_template
        self._template = (
            ChatTemplate(files.chat_template, files.special_tokens) if files.chat_template else None
        )
        used = words_of(files.chat_template).names
        self._used_tokens = {name: content for name, content in files.special_tokens.items() if name in used}
        self.vocabulary = 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values())
        """Token ids are below this."""
        added = self._tokenizer.get_added_tokens_decoder().values()
        self.special_tokens = frozenset(token.content for token in added if token.special)
        """Tokens that stand for no text."""

    async def encode(
        self, prompt: Prompt, extras: RepoExtras = NO_EXTRAS, *, account: str = ""
    ) -> tuple[int, ...]:
        """The prompt's token ids; a heavy one is encoded in a thread.

        A chat is rendered with the template of `extras`, if any, on behalf of `account`. Text gets the special tokens that the tokenizer adds by itself; a chat has those that its template
        writes. Raises InvalidFieldError for a conversation that the template refuses, PreconditionError for a template
        that takes more time or memory than one may, and UnavailableError where it cannot be rendered now.
        """
        match prompt:
            case TokenPrompt():
                return prompt.ids
            case TextPrompt():
                text, add_special_tokens = prompt.text, True
            case ChatPrompt():
                text, add_special_tokens = await self._render(prompt, extras, account), False
        if len(text) <= _INLINE_CHARACTERS:
            return self._encode(text, add_special_tokens)
        return await asyncio.to_thread(self._encode, text, add_special_tokens)

    def _encode(self, text: str, add_special_tokens: bool) -> tuple[int, ...]:
        # `encode` holds the interpreter lock throughout; the batch form lets it go.
        (encoding,) = self._tokenizer.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        return tuple(encoding.ids)

    async def _render(self, prompt: ChatPrompt, extras: RepoExtras, account: str) -> str:
        shown = f"{len(prompt.messages)} message{'s' if len(prompt.messages) > 1 else ''}"
        messages = [_values(message) for message in prompt.messages]
        try:
            if extras.chat_template and not self._is_the_bases(extras):
                return await self._templates.render(
                    extras.chat_template, extras.special_tokens, messages, owner=account
                )
            if self._template is None:
                raise errors.InvalidFieldError(
                    "chat",
                    shown,
                    "unset for this model, which has no chat template; send text or tokens",
                    reason="NO_CHAT_TEMPLATE",
                )
            if _size(prompt) <= _INLINE_CHARACTERS:
                return self._template.render(messages)
            return await asyncio.to_thread(self._template.render, messages)
        except TemplateCostError as error:
            raise errors.PreconditionError(
                "CHAT_TEMPLATE_TOO_COSTLY",
                "chat_template",
                f"the chat template of the adapter's repo cannot be used: {error}; set use_base_template, send text or tokens",
            ) from error
        except ChatTemplateError as error:
            raise errors.InvalidFieldError(
                prompt.field,
                shown,
                f"a conversation that the model's chat template accepts, which says: {error}",
                reason="CHAT_TEMPLATE_REFUSED",
            ) from error

    def _is_the_bases(self, extras: RepoExtras) -> bool:
        """Whether a repo's template is the base's own, as most are: the operator chose that one."""
        return extras.chat_template == self._source and extras.special_tokens == self._used_tokens


def _values(message: ChatMessage) -> dict[str, str]:
    named = {"name": message.name} if message.name else {}
    return {"role": message.role, "content": message.content, **named}


def _size(prompt: ChatPrompt) -> int:
    """All that is rendered counts, and what the template writes around each turn."""
    return sum(
        _TURN_CHARACTERS + len(turn.role) + len(turn.content) + len(turn.name) for turn in prompt.messages
    )
