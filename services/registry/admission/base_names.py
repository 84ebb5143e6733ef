"""By which names an adapter's config may call a base: those that the operator lists, however trainers spell them."""

import re
from collections.abc import Iterable

QUANTISED = ("-unsloth-bnb-4bit", "-bnb-4bit")
"""What unsloth appends to the name of a base whose weights it has rounded: its adapters are served on the weights
themselves, as PEFT serves them."""

_MAX_LENGTH = 512
# In huggingface_hub's cache: models--org--name/snapshots/COMMIT.
_CACHED = re.compile(r"(?:.*/)?models--(?P<owner>[^/]+?)--(?P<name>[^/]+)(?:/snapshots/[^/]+)?")


def is_called(said: str, names: Iterable[str]) -> bool:
    """Whether `said` is one of `names`: whatever its case, a slash at its end, the cache of the Hub, or QUANTISED."""
    # Bounded before it is matched: the expression takes the square of its length at the worst.
    return len(said) <= _MAX_LENGTH and _plain(said) in {_plain(name) for name in names}


def _plain(name: str) -> str:
    name = name.strip().rstrip("/")
    cached = _CACHED.fullmatch(name)
    if cached is not None:
        name = f"{cached['owner']}/{cached['name']}"
    name = name.casefold()
    for suffix in QUANTISED:
        name = name.removesuffix(suffix)
    return name
