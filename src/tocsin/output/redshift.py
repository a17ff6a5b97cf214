"""Sink `redshift`: rows into a table of Amazon Redshift, by compressed files in S3 and COPY."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import pyarrow as pa
from pydantic import Field, SecretStr, field_validator

from tocsin.contracts import Token
from tocsin.errors import ConfigError, SinkError
from tocsin.objects.store import open_store
from tocsin.postgres.writing import TableSink, TableWriter, parts
from tocsin.redshift.bookkeeping import RedshiftBookkeeping
from tocsin.redshift.files import LoadFiles
from tocsin.redshift.table import RedshiftTable, columns_for, folded
from tocsin.settings.addresses import without_password
from tocsin.world import World

if TYPE_CHECKING:
    from psycopg import Connection
    from psycopg.sql import Composable

log = logging.getLogger(__name__)

_GATHERS_S = 60.0
"""How long rows may wait for each other: each load costs the cluster a COPY and a commit, however few they are."""
_ROLE = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]+(,arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]+)*")
_BUCKET = re.compile(r"s3://[a-z0-9][a-z0-9.-]+(/[\w!.*'()-]+)*/?")
_ADDRESS_MAX = 150
"""Characters: what Redshift says of a file has 256 for its whole address."""
_SESSION = "set timezone to 'UTC'; set datestyle to 'ISO, YMD'"


class Redshift(TableSink):
    """Keep rows in a table of Amazon Redshift, each row exactly once: rows and epoch are written in one transaction.

    Rows are put into S3 as compressed files, as many as the cluster reads at once, with a manifest. One COPY, by the
    rights of an IAM role, brings them into a staging table; from there they reach the table, and the files are
    deleted. A table that is missing is made, and a column that is new is added; ``tocsin_epochs``, ``tocsin_history``
    and ``tocsin_rejected`` stand beside it as they do for `postgres`. A row that COPY refuses (a text too long for its
    ``varchar``, a number out of range) is put into ``tocsin_rejected`` with the reason, and counted as ``rejected``;
    up to 100,000 of one load. While the cluster or S3 is away, rows wait on the local disk.

    Rows gather for about a minute, since each load costs the cluster a COPY and a commit. A row that replaces another
    by ``upsert`` is deleted and inserted: columns that do not come are null in it. Names are in lower case. Needs
    ``pip install 'tocsin[redshift]'``.

    References: Amazon Redshift Database Developer Guide, COPY, "Using a manifest to specify data files", "Performing a
    merge operation by replacing existing rows", SYS_LOAD_ERROR_DETAIL.

    Examples
    --------
    >>> sink = Redshift(
    ...     url="postgresql://plant.example.eu-central-1.redshift.amazonaws.com/plant", table="plant.readings",
    ...     staging="s3://plant-loads/tocsin", role="arn:aws:iam::123456789012:role/load")
    >>> sink.accepts(rows({"value": [1.5]}).schema)
    >>> sink.place()["table"]
    ['plant', 'readings']
    """

    SERVER: ClassVar[str] = "Redshift"
    PORT: ClassVar[int] = 5439
    EXTRA: ClassVar[str] = "redshift"
    NAME_BYTES_MAX: ClassVar[int] = 127

    staging: str
    """Where files wait to be loaded, ``s3://bucket/folder``; the sink deletes its own there. A rule of the bucket that
    deletes what is older than some days does no harm."""
    role: str
    """What the cluster may read the files by: an IAM role that it has (``arn:aws:iam::123456789012:role/load``, or
    several with commas between them), or ``default``."""
    storage: Mapping[str, SecretStr] = {}
    """How tocsin reaches ``staging``, by the names that sink `delta` takes, secrets as ``${env:NAME}``; an
    ``aws_region`` is told to COPY, too."""
    slices: int = Field(default=16, ge=1, le=6400)
    """How many files a large load is cut into: the number of slices of the cluster or a multiple of it. 16 suits
    clusters of 1, 2, 4, 8 and 16."""

    _no_password = field_validator("staging")(without_password)

    @field_validator("staging")
    @classmethod
    def _staging(cls, staging: str) -> str:
        if not _BUCKET.fullmatch(staging) or len(staging) > _ADDRESS_MAX:
            # It is not shown, nor is a wrong role: either may hold a key.
            raise ConfigError("staging is no place that Redshift can load from; write s3://bucket/folder")
        return staging

    @field_validator("role")
    @classmethod
    def _role(cls, role: str) -> str:
        if role != "default" and not _ROLE.fullmatch(role):
            raise ConfigError("role is no IAM role; write arn:aws:iam::123456789012:role/NAME, or default")
        return role

    def gathers_s(self) -> float:
        return _GATHERS_S

    def accepts(self, schema: pa.Schema) -> None:
        columns = columns_for(schema)
        self.require_kept(schema, [column.kept_as for column in columns], [column.name for column in columns])

    def check(self, world: World) -> None:
        super().check(world)
        self._files(world).close()

    def prepare(self, connection: Connection) -> None:
        import psycopg

        # Parameters are put into the statements here: what a server of PostgreSQL 8's days makes of an unknown type in
        # the extended protocol need not be found out.
        connection.cursor_factory = psycopg.ClientCursor
        connection.execute(_SESSION)

    def target(self, world: World, schema: pa.Schema, staging: str) -> tuple[RedshiftBookkeeping, RedshiftTable]:
        return self._target(world, schema, staging, self._files(world))

    def writer(self, world: World, schema: pa.Schema, staging: str) -> RedshiftWriter:
        files = self._files(world)
        return RedshiftWriter(self, world, schema, *self._target(world, schema, staging, files), files)

    def _target(
        self, world: World, schema: pa.Schema, staging: str, files: LoadFiles
    ) -> tuple[RedshiftBookkeeping, RedshiftTable]:
        books = RedshiftBookkeeping(world.name, *map(folded, parts(self.table)))
        table = RedshiftTable(
            books, columns_for(schema), self.upsert, staging, files, self._copy_from(), world.clock
        )  # fmt: skip
        return books, table

    def _files(self, world: World) -> LoadFiles:
        storage = {name: value.get_secret_value() for name, value in self.storage.items()}
        return LoadFiles(open_store(self.staging, storage, SinkError), self.staging, world.name, self.slices)

    def _copy_from(self) -> Composable:
        """Return by which role, and from which region, COPY reads."""
        from psycopg import sql

        role = sql.SQL("default") if self.role == "default" else sql.Literal(self.role)
        regions = [value for name, value in self.storage.items() if name.lower() in ("aws_region", "region")]
        region = sql.SQL(" region {}").format(sql.Literal(regions[0].get_secret_value())) if regions else sql.SQL("")
        return sql.SQL("iam_role {}{}").format(role, region)


class RedshiftWriter(TableWriter):
    """The table. Files of a load are deleted behind its transaction, and at a start those that a crash has left."""

    def __init__(
        self,
        settings: Redshift,
        world: World,
        schema: pa.Schema,
        books: RedshiftBookkeeping,
        table: RedshiftTable,
        files: LoadFiles,
    ) -> None:
        super().__init__(settings, world, schema, books, table)
        self._files, self._staging = files, settings.staging

    def wrote(self, epoch: int, refused: int) -> None:
        super().wrote(epoch, refused)
        self._sweep()

    def discard(self, keep: Sequence[Token]) -> None:
        super().discard(keep)
        self._sweep()

    def _sweep(self) -> None:
        try:
            self._files.sweep()
        except SinkError as error:
            log.warning("%s: files of loads that are done stay until the next one: %s", self._staging, error)


__all__ = ["Redshift", "RedshiftWriter"]
