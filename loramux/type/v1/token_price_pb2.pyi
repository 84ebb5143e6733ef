from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class TokenPrice(_message.Message):
    __slots__ = ("prompt_pico_usd", "cached_prompt_pico_usd", "completion_pico_usd")
    PROMPT_PICO_USD_FIELD_NUMBER: _ClassVar[int]
    CACHED_PROMPT_PICO_USD_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_PICO_USD_FIELD_NUMBER: _ClassVar[int]
    prompt_pico_usd: int
    cached_prompt_pico_usd: int
    completion_pico_usd: int
    def __init__(self, prompt_pico_usd: _Optional[int] = ..., cached_prompt_pico_usd: _Optional[int] = ..., completion_pico_usd: _Optional[int] = ...) -> None: ...
