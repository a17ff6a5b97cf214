"""A sink of the job: an epoch is staged before a checkpoint's barrier, and published once the checkpoint is complete.

The epoch is the checkpoint's number. What is staged and not published is state that Flink keeps; the table itself says
how far it has come, so that to publish twice is the same as once.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from tocsin.contracts import Sink, Token
from tocsin.engine.remembered import packed, unpacked
from tocsin.engine.sink_task import EPOCHS_MAX, HOUSEKEEPING_EPOCHS
from tocsin.errors import ForeignCommit, SinkError, Unavailable
from tocsin.pipeline.plan import SinkNode
from tocsin.world import World

logger = logging.getLogger(__name__)

STAGED_BYTES = 64 << 20
"""Rows are staged when so many wait, though no checkpoint is due."""
TROUBLE = ".trouble"
"""Behind the name of a sink: a file that says why nothing is published, for whoever waits for the job."""


class Keeping:
    """One sink of a plan being written; its state is bytes, whole between the barrier's `stage` and the next rows.

    A table that is away, or refuses, holds up no other: its epochs stay staged, and each further checkpoint tries it
    again, until more than ``lag_bytes`` wait. A process that lives on after its task was given to another one may still
    publish, since it was told that a checkpoint is complete: the other one then finds the table moved under it, fails,
    and starts again. Nothing that it has not staged itself is ever deleted, for it may be about to be published
    elsewhere.
    """

    def __init__(
        self, target: SinkNode, world: World, groups: Sequence[int], marker: Path, lag_bytes: int,
        state: bytes | None = None,
    ) -> None:  # fmt: skip
        assert isinstance(target.part, Sink)
        self._id, self._world, self._groups, self._marker = target.id, world, set(groups), marker
        self._sink, self._schema, self._lag_bytes = target.part, target.schema, lag_bytes
        self._run = marker.parent.name
        self._writer = self._sink.open(world, target.schema)
        head: Mapping[str, Any] = unpacked(state)[0] if state is not None else {}
        self._staged: dict[int, list[Token]] = {int(epoch): some for epoch, some in head.get("staged", {}).items()}
        """By epoch."""
        self._sizes: dict[int, int] = {int(epoch): size for epoch, size in head.get("sizes", {}).items()}
        """About how many bytes each of these takes."""
        self._published: int | None = head.get("published")
        """The last epoch that went to the table, as far as the state knows."""
        same_run = head.get("run") == self._run
        self._done: set[int] = set(head["done"]) if same_run else set()
        """Groups that have heard that all is read."""
        self._whole_at: int | None = head["whole_at"] if same_run else None
        """The epoch that holds the last rows of this run."""
        self._verified = False
        self._reason: str | None = None
        """Why the last try to publish failed."""
        self._has_told = False
        self._since_housekeeping = 0
        self._rows: list[pa.RecordBatch] = []
        self._bytes = 0
        self._tokens: list[Token] = []
        """Of the epoch that is under way."""
        self._tokens_bytes = 0

    def take(self, data: bytes) -> None:
        """Take rows, an Arrow stream.

        Raises
        ------
        Unavailable
            Too many wait for the table: the job goes back to its last checkpoint, and takes no more until it is there.
        """
        with pa.ipc.open_stream(data) as stream:
            batches = list(stream)
        self._rows += batches
        self._bytes += sum(int(rows.nbytes) for rows in batches)
        if self._reason is not None and sum(self._sizes.values()) > self._lag_bytes:
            raise Unavailable(f"'{self._id}' lags behind by more than the pipeline's lag: allows: {self._reason}")
        if self._bytes >= STAGED_BYTES:
            self._make_durable(max(self._staged, default=self._published or 0) + 1)

    def hear(self, group: int) -> None:
        """All that is read in this run has passed a group."""
        self._done.add(group)

    def stage(self, epoch: int) -> None:
        """The barrier of a checkpoint follows: make durable what came before it."""
        if self._rows:
            self._make_durable(epoch)
        if self._tokens:
            self._staged[epoch], self._sizes[epoch] = self._tokens, self._tokens_bytes
            self._tokens, self._tokens_bytes = [], 0
        if self._whole_at is None and self._done >= self._groups:
            self._whole_at = epoch

    def publish(self, epoch: int) -> None:
        """A checkpoint is complete: make visible what was staged for it, and for those before it."""
        try:
            self._verify(epoch)
            while due := sorted(one for one in self._staged if one <= epoch)[:EPOCHS_MAX]:
                self._publish(due)
        except ForeignCommit:
            raise
        except SinkError as error:
            self._fail(error)
            return
        self._tell(None)
        if self._whole_at is not None and epoch >= self._whole_at:
            self._world.disk.make_folder(self._marker.parent)
            self._world.disk.write(self._marker, b"")

    def dump(self) -> bytes:
        """Returns what is to be remembered at a barrier."""
        head = {
            "staged": self._staged, "sizes": self._sizes, "published": self._published,
            "run": self._run, "done": sorted(self._done), "whole_at": self._whole_at,
        }  # fmt: skip
        return packed(head, {})

    def close(self) -> None:
        self._writer.close()

    def _make_durable(self, epoch: int) -> None:
        self._tokens.append(self._writer.stage(epoch, self._rows))
        self._tokens_bytes += self._bytes
        self._rows, self._bytes = [], 0

    def _publish(self, due: Sequence[int]) -> None:
        self._verified = False  # until it has come back, nobody knows what the table has
        self._writer.publish(due[-1], [token for one in due for token in self._staged[one]])
        self._verified = True
        self._reach(due[-1])
        self._since_housekeeping += len(due)
        if self._since_housekeeping >= HOUSEKEEPING_EPOCHS:
            self._since_housekeeping = 0
            self._writer.housekeep()

    def _reach(self, epoch: int) -> None:
        self._published = epoch
        for one in [one for one in self._staged if one <= epoch]:
            del self._staged[one], self._sizes[one]

    def _verify(self, epoch: int) -> None:
        """Ask the table how far it has come, where that is not known; what it has already is not published again."""
        if self._verified:
            return
        stands = self._writer.published()
        if stands != self._published and stands not in [one for one in self._staged if one <= epoch]:
            raise ForeignCommit(
                f"the table of '{self._id}' stands at epoch {stands}, the checkpoint expects {self._published}"
                f"{f' or one of {sorted(self._staged)}' if self._staged else ''}: one of the two was restored or "
                "removed, or another engine writes the table; restore both from the same time, or give the pipeline "
                "another name"
            )
        if stands is not None:
            self._reach(stands)
        self._verified = True

    def _fail(self, error: SinkError) -> None:
        """The table is away, or refuses: its writer is opened anew, and says where the table stands."""
        if str(error) != self._reason:
            logger.warning("%s: %s; its rows wait on disk, the others go on", self._id, error)
        self._tell(str(error))
        self._verified = False
        self._writer.close()
        self._writer = self._sink.open(self._world, self._schema)

    def _tell(self, reason: str | None) -> None:
        if reason == self._reason and self._has_told:
            return
        self._reason, self._has_told, disk = reason, True, self._world.disk
        note = self._marker.parent / f"{self._marker.name}{TROUBLE}"
        disk.make_folder(note.parent)
        if reason is None:
            disk.unlink(note)
        else:
            disk.write(note, reason.encode())
