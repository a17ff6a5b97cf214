"""Records that a decoder sets aside, with the reason for each."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from tocsin import batch
from tocsin.decode._reasons import Bad


@dataclass(slots=True)
class Rejects:
    """Rows set aside so far in a batch."""

    rows: list[int] = field(default_factory=list)
    bad: list[Bad] = field(default_factory=list)
    parts: list[bytes | None] = field(default_factory=list)
    """The bytes of the one bad row, where they are known, else the whole payload counts."""

    def add(self, row: int, bad: Bad, part: bytes | None = None) -> None:
        self.rows.append(row)
        self.bad.append(bad)
        self.parts.append(part)

    def quarantined(self, records: pa.RecordBatch) -> pa.RecordBatch:
        """Returns the rows set aside of these records, in the order in which they came."""
        order = np.argsort(np.array(self.rows), kind="stable")
        bad = [self.bad[i] for i in order]
        parts = [self.parts[i] for i in order]
        came = records.take(pa.array(np.array(self.rows, np.int64)[order]))
        whole = came.column("payload").to_pylist()
        return batch.rejected(
            pa.repeat("", len(bad)),
            came.column("received"),
            [b.reason for b in bad],
            [b.detail for b in bad],
            [payload if part is None else part for payload, part in zip(whole, parts, strict=True)],
            topics=came.column("topic"),
            positions=came.column("position"),
        )
