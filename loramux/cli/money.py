"""Amounts between pico-USD, in which everything is counted, and USD, in which people read."""

from decimal import Decimal, InvalidOperation

_PICO_PER_USD = Decimal(10) ** 12
_TOKENS = 1_000_000


def usd(pico_usd: int) -> str:
    """Exactly, without needless zeros: $0.0000027."""
    text = f"{Decimal(pico_usd) / _PICO_PER_USD:.12f}".rstrip("0")
    whole, _, fraction = text.partition(".")
    return f"${whole}.{fraction.ljust(2, '0')}"


def per_million(pico_usd_per_token: int) -> str:
    """A price as price lists have it: USD for a million tokens."""
    return usd(pico_usd_per_token * _TOKENS)


def parse_usd(text: str) -> int:
    """Pico-USD. Raises ValueError for what is no amount, below zero, or finer than a pico-USD."""
    try:
        pico = Decimal(text.removeprefix("$")) * _PICO_PER_USD
    except InvalidOperation:
        raise ValueError(f"{text!r} is not an amount in USD, such as 2.50") from None
    if not pico.is_finite() or pico < 0 or pico != pico.to_integral_value():
        raise ValueError(f"{text!r} is not an amount in USD of 0 or more with at most 12 decimals")
    return int(pico)
