"""Files with secrets in them."""

import os
from pathlib import Path


def write(place: Path, text: str) -> None:
    """Write `text` to `place` in one rename. Nobody but the owner can read it, not even for a moment."""
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = place.with_name(f".{place.name}.{os.getpid()}")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    partial.replace(place)
