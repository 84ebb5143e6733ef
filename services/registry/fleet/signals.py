"""Waiting for a change without a queue for each who waits."""

import asyncio


class Signal:
    """`wait` returns at the next `notify`. Look at the state, then wait, with no await in between."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify(self) -> None:
        """Wake everybody who waits now."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self) -> None:
        """Sleep until the next notify."""
        await self._event.wait()
