"""Prompts to token ids, with a base model's own tokenizer and chat template."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from tokenizers import Tokenizer

from services.common import errors
from services.gateway.prompts.chat_template import ChatTemplate, ChatTemplateError
from services.gateway.request import ChatPrompt, Prompt, TextPrompt, TokenPrompt

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


class PromptEncoder:
    """Encodes prompts for one base model."""

    def __init__(self, files: TokenizerFiles) -> None:
        """Raises ValueError or jinja2.TemplateSyntaxError for files that are not what they should be."""
        self._tokenizer: Tokenizer = Tokenizer.from_str(files.tokenizer_json.decode())
        # A tokenizer.json may carry both from the training; a prompt is never cut or filled up in silence.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._template = (
            ChatTemplate(files.chat_template, files.special_tokens) if files.chat_template else None
        )
        self.vocabulary = 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values())
        """Token ids are below this."""
        added = self._tokenizer.get_added_tokens_decoder().values()
        self.special_tokens = frozenset(token.content for token in added if token.special)
        """Tokens that stand for no text."""

    async def encode(self, prompt: Prompt) -> tuple[int, ...]:
        """The prompt's token ids; a heavy one is encoded in a thread.

        Text gets the special tokens that the tokenizer adds by itself; a chat has those that its template
        writes. Raises InvalidFieldError for a conversation that the template refuses.
        """
        match prompt:
            case TokenPrompt():
                return prompt.ids
            case TextPrompt():
                size = len(prompt.text)
            case ChatPrompt():
                # All that is rendered counts, and what the template writes around each turn.
                size = sum(
                    _TURN_CHARACTERS + len(turn.role) + len(turn.content) + len(turn.name)
                    for turn in prompt.messages
                )
        if size <= _INLINE_CHARACTERS:
            return self._encode(prompt)
        return await asyncio.to_thread(self._encode, prompt)

    def _encode(self, prompt: TextPrompt | ChatPrompt) -> tuple[int, ...]:
        if isinstance(prompt, TextPrompt):
            text, add_special_tokens = prompt.text, True
        else:
            text, add_special_tokens = self._render(prompt), False
        # `encode` holds the interpreter lock throughout; the batch form lets it go.
        (encoding,) = self._tokenizer.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        return tuple(encoding.ids)

    def _render(self, prompt: ChatPrompt) -> str:
        count = len(prompt.messages)
        shown = f"{count} message{'s' if count > 1 else ''}"
        if self._template is None:
            raise errors.InvalidFieldError(
                "chat",
                shown,
                "unset for this model, which has no chat template; send text or tokens",
                reason="NO_CHAT_TEMPLATE",
            )
        try:
            return self._template.render(prompt.messages)
        except ChatTemplateError as error:
            raise errors.InvalidFieldError(
                prompt.field,
                shown,
                f"a conversation that the model's chat template accepts, which says: {error}",
                reason="CHAT_TEMPLATE_REFUSED",
            ) from error
