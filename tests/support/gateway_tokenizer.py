"""A tokenizer in miniature: every byte is one token, so token counts can be read off the text."""

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from services.gateway.prompts.prompt_encoder import TokenizerFiles

VOCABULARY = 258
BEGIN, END = 256, 257
TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] not in ('system', 'user', 'assistant') %}"
    "{{ raise_exception('unknown role ' + message['role']) }}"
    "{% endif %}"
    "{{ bos_token + message['role'] + ':' + message['content'] + eos_token }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ bos_token + 'assistant:' }}{% endif %}"
)


def byte_tokenizer(*, begins: bool = False) -> Tokenizer:
    """One token a byte, then <s> and </s>; with `begins` a text gets <s> in front."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(
        models.BPE(vocab={letter: place for place, letter in enumerate(alphabet)}, merges=[])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<s>"), AddedToken("</s>")])
    if begins:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", BEGIN)]
        )
    return tokenizer


def tokenizer_files(
    *, commit: str = "base-commit", chat_template: str = TEMPLATE, begins: bool = False
) -> TokenizerFiles:
    return TokenizerFiles(
        commit=commit,
        chat_template=chat_template,
        special_tokens={"bos_token": "<s>", "eos_token": "</s>"},
        tokenizer_json=byte_tokenizer(begins=begins).to_str().encode(),
    )
