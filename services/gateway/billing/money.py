"""Money and prices: whole pico-USD (1e-12 USD) that fit a signed 64-bit integer."""

from dataclasses import dataclass

INT64_MAX = 2**63 - 1


class OddPriceError(ValueError):
    """A base price of which 3/2 is not a whole number; the registry admits none."""


@dataclass(frozen=True)
class TokenPrice:
    """Pico-USD for one token."""

    prompt: int
    cached_prompt: int
    """A prompt token that was found in the prefix cache; at most `prompt`."""
    completion: int

    def through_adapter(self) -> "TokenPrice":
        """What the same tokens cost through an adapter: exactly 3/2. Raises OddPriceError."""
        return TokenPrice(
            _three_halves(self.prompt),
            _three_halves(self.cached_prompt),
            _three_halves(self.completion),
        )

    def cost(self, prompt_tokens: int, completion_tokens: int, cached_tokens: int = 0) -> int:
        """Pico-USD for a request, of whose prompt tokens so many were cached; exact, and not bound to 64 bits."""
        computed = prompt_tokens - cached_tokens
        return (
            self.prompt * computed + self.cached_prompt * cached_tokens + self.completion * completion_tokens
        )


def _three_halves(price: int) -> int:
    if price % 2:
        raise OddPriceError(f"3/2 of {price} pico-USD is not a whole number")
    return price * 3 // 2
