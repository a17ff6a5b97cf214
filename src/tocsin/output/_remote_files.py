"""The writer of sink `files` for an object store or HDFS."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pyarrow as pa

from tocsin.contracts import Token
from tocsin.ends import Spooled, staged_epoch
from tocsin.errors import ForeignCommit
from tocsin.objects.store import Store
from tocsin.output._file_bytes import Compression, Format, compressed, encoded, header, suffix
from tocsin.world import World, replace


class RemoteFilesWriter(Spooled):
    """Objects, each made by one conditional put, named for the epoch that its rows reach to.

    So an object holds rows and epoch in one. What is put is first kept on the local disk: a put whose answer never came
    is made again with the same bytes under the same name, and is there once, whichever of the two arrives. An object
    without content, ``_tocsin/NAME/to-EPOCH``, says how far all has come, also where somebody has taken the objects
    away, or there were no rows.
    """

    def __init__(
        self, world: World, schema: pa.Schema, store: Store, address: str, format: Format, compress: Compression
    ) -> None:
        super().__init__(world, schema)
        self._store, self._format, self._compress = store, format, compress
        name = _hash(world.name)
        self._objects, self._marks = f"part-{name}-", f"_tocsin/{name}/to-"
        self._kept = f"object-{_hash(f'{address} {format} {compress}')}-"
        """What local files begin with that hold the bytes of an object, until it is known to be there."""
        self._position: int | None = None
        self._is_known = False

    def apply(self, epoch: int, rows: pa.Table) -> None:
        if rows.num_rows:
            kept = f"{self._kept}{epoch:012d}"
            replace(self.world.disk, self.world.scratch / kept, self._bytes(rows))
            self._put(kept)
        self._reach(epoch)

    def publish(self, epoch: int, tokens: Sequence[Token]) -> None:
        done = self.applied()
        for kept in self._left_over():
            if done is None or _epoch_of(kept) > done:
                self._put(kept)
                done = _epoch_of(kept)
                self._reach(done)
            else:
                self.world.disk.unlink(self.world.scratch / kept)
        if done is None or epoch > done:
            self.apply(epoch, self.rows([one for one in tokens if done is None or staged_epoch(one) > done]))
        for token in tokens:
            self.world.disk.unlink(self.world.scratch / str(token["file"]))

    def applied(self) -> int | None:
        marks = sorted(_epoch_of(name) for name in self._store.names(self._marks))
        told = marks[-1] if marks else None
        if self._is_known and told != self._position:
            raise ForeignCommit(
                f"the files of '{self.world.name}' stand at epoch {told}, they were left at {self._position}: another "
                "engine writes under our name; stop it, or give one of the pipelines another name"
            )
        if not self._is_known:
            for epoch in marks[:-1]:
                self._store.delete(self._mark(epoch))
            made = [_epoch_of(name) for name in self._store.names(self._objects, self._object(told or 0))]
            self._position, self._is_known = told, True
            if made and (told is None or max(made) > told):
                self._reach(max(made))
        return self._position

    def discard(self, keep: Sequence[Token]) -> None:
        super().discard(keep)
        for name in self.world.disk.names(self.world.scratch):
            if name.endswith(".part"):  # a crash came before it was whole
                self.world.disk.unlink(self.world.scratch / name)

    def close(self) -> None:
        self._store.close()

    def _put(self, kept: str) -> None:
        path = self.world.scratch / kept
        data, name = self.world.disk.read(path), self._object(_epoch_of(kept))
        if not self._store.create(name, data) and b"".join(self._store.chunks(name)) != data:
            raise ForeignCommit(
                f"{name} is there already and holds other rows: another engine writes as '{self.world.name}'; stop it, "
                "or give one of the pipelines another name"
            )
        self.world.disk.unlink(path)

    def _reach(self, epoch: int) -> None:
        """Mark how far all has come, then take the mark of before away."""
        self._store.create(self._mark(epoch), b"")
        before, self._position = self._position, epoch
        if before is not None:
            self._store.delete(self._mark(before))

    def _left_over(self) -> list[str]:
        names = self.world.disk.names(self.world.scratch)
        return [name for name in names if name.startswith(self._kept) and not name.endswith(".part")]

    def _mark(self, epoch: int) -> str:
        return f"{self._marks}{epoch:012d}"

    def _object(self, epoch: int) -> str:
        return f"{self._objects}{epoch:012d}{suffix(self._format, self._compress)}"

    def _bytes(self, rows: pa.Table) -> bytes:
        head = b"" if self._format != "csv" else compressed(header(rows.column_names), self._compress)
        return head + encoded(rows.to_batches(), self._format, self._compress)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _epoch_of(name: str) -> int:
    """The epoch in the name of an object, of a mark or of a local file."""
    return int(name.rpartition("/")[2].rpartition("-")[2].partition(".")[0])
