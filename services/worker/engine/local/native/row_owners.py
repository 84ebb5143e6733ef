"""Whose each row of a native step is."""

from collections.abc import Sequence

from services.worker.engine.local.adapters.loaded_adapter import LoadedAdapter
from services.worker.engine.local.native.kernels import LoraRuns


class RowOwners:
    """Stretches of rows, each of one adapter or of the base. Rows of one adapter are best adjacent."""

    def __init__(self, pieces: Sequence[tuple[LoadedAdapter | None, int]]) -> None:
        """`pieces`: adapter and number of rows, in the order of the batch; None for rows of the base."""
        stretches: list[tuple[LoadedAdapter | None, slice]] = []
        row = 0
        for adapter, count in pieces:
            if stretches and stretches[-1][0] is adapter:
                stretches[-1] = (adapter, slice(stretches[-1][1].start, row + count))
            else:
                stretches.append((adapter, slice(row, row + count)))
            row += count
        self.runs = (
            # None where no row has an adapter, so that a base batch pays nothing.
            LoraRuns(
                (
                    None if adapter is None or adapter.native is None else adapter.native.packed,
                    rows.stop - rows.start,
                )
                for adapter, rows in stretches
            )
            if any(adapter is not None for adapter, _ in stretches)
            else None
        )
        self.special = [(one, rows) for one, rows in stretches if one is not None and _is_special(one)]
        """The rows of adapters that change the embedding or the output layer beyond a delta; mostly there are none."""


def _is_special(adapter: LoadedAdapter) -> bool:
    native = adapter.native
    return adapter.weights.embedding is not None or (
        native is not None and (native.head is not None or native.output_rows is not None)
    )
