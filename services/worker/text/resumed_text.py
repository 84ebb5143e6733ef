"""Where the text of an answer goes on that another worker began."""

from collections.abc import Sequence
from dataclasses import dataclass

from services.common import errors
from services.worker.text.text_stream import TextStream


@dataclass(frozen=True)
class Resumed:
    """What another worker had produced of one choice."""

    token_ids: tuple[int, ...] = ()
    text_bytes_sent: int = 0
    """How many bytes of their text, in UTF-8, the client has."""


def replay(text: TextStream, resumed: Resumed, *, is_all: bool) -> tuple[str, bool]:
    """Bring a new stream to where the other worker's was: what of its text the client does not have, and whether it had ended.

    `is_all`: no token follows. A stop string among the tokens ends the stream, as it would have there; and so it had
    where the client has text that is only said at the end, as after a stop token, which is none of the tokens.
    Raises InvalidFieldError where the client cannot have had so many bytes.
    """
    said = _replayed(text, resumed.token_ids)
    had_ended = is_all or text.stop is not None or resumed.text_bytes_sent > len(said.encode())
    if had_ended and text.stop is None:
        said += text.finish()
    data = said.encode()
    if resumed.text_bytes_sent > len(data):
        raise _refused(resumed, f"at most the {len(data)} bytes that these tokens have")
    try:
        return data[resumed.text_bytes_sent :].decode(), had_ended
    except UnicodeDecodeError:
        raise _refused(resumed, "at the end of a character") from None


def _replayed(text: TextStream, token_ids: Sequence[int]) -> str:
    pieces: list[str] = []
    for token_id in token_ids:
        pieces.append(text.push(token_id))
        if text.stop is not None:
            break
    return "".join(pieces)


def _refused(resumed: Resumed, expected: str) -> errors.InvalidFieldError:
    return errors.InvalidFieldError("resumed.text_bytes_sent", resumed.text_bytes_sent, expected)
