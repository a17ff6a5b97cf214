"""Sources as people name them on the command line: an address, a file, a pattern, a folder, `host`."""

from __future__ import annotations

import glob
import gzip
import os
import re
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
import pyarrow as pa
from pydantic_core import PydanticCustomError

from tocsin.acquire.files import Files
from tocsin.batch import NEW, OUT, RAW, START, Batch, as_times
from tocsin.contracts import Source
from tocsin.engine.preview import sample as read_some
from tocsin.errors import ConfigError, SourceError
from tocsin.infer.sample import Form, Piece, Sample, SampledField
from tocsin.pipeline.parts import build, sentences
from tocsin.pipeline.plan import Plan
from tocsin.sparkplug.payload import NAMESPACE

HEAD_BYTES, WHOLE_BYTES, FILES_MAX = 256 * 1024, 64 * 2**20, 8
"""How much is read of a file that has lines, and of one that is a document; of how many files."""
MESSAGES_MAX, ROWS_MAX = 3_000, 2_000
CONNECT_S = 3.0
"""How much longer is waited for the first message: connecting takes its time."""
PASSWORD = "TOCSIN_SOURCE_PASSWORD"  # noqa: S105 (the name of a variable)
"""A password in an address goes into this variable, so that no file holds it."""
_KNOWN = (
    "mqtt://broker/plant/#, kafka://broker/topic, postgresql://host/database/table, sqlite://plant.db/table, host, "
    "a file, pattern or folder"
)


@dataclass(frozen=True)
class Named:
    """A source by its address."""

    address: str

    @property
    def scheme(self) -> str:
        """What stands before ``://``; `host`, or `files`."""
        if self.address == "host":
            return "host"
        scheme, mark, _ = self.address.partition("://")
        return scheme.lower() if mark else "files"

    def _stem(self) -> str:
        """The last part of a path that is no pattern."""
        steps = [step for step in Path(self.address).parts if not glob.has_magic(step)]
        return Path(steps[-1].removesuffix(".gz")).stem if steps else "files"

    @property
    def is_files(self) -> bool:
        return self.scheme == "files"

    @property
    def name(self) -> str:
        """A name for a pipeline that reads it."""
        where = self.address.partition("?")[0].rstrip("/#+").rpartition("/")[2]
        last = self._stem() if self.is_files else where
        slug = re.sub(r"[^a-z0-9]+", "_", last.lower()).strip("_")
        return f"watch_{slug}"[:63] if not slug[:1].isalpha() else slug[:63]

    def source(self, form: Form | None = None) -> dict[str, Any]:
        """Return the source as a pipeline file has it; that of files depends on what is in them."""
        match self.scheme:
            case "host":
                return {"host": {}}
            case "files":
                return {"files": self._files(form)}
            case "mqtt" | "mqtts":
                return {"sparkplug": self._sparkplug()} if self.is_sparkplug else {"mqtt": self._mqtt()}
            case "kafka":
                where = urlsplit(self.address)
                topic = where.path.strip("/")
                if not where.hostname or not topic:
                    raise ConfigError(f"{self.address}: write broker and topic, as kafka://broker:9092/plant.telemetry")
                return {"kafka": {"brokers": f"{where.hostname}:{where.port or 9092}", "topics": topic}}
            case "postgres" | "postgresql":
                return {"postgres": self._postgres()}
            case "sqlite":
                return {"sqlite": self._sqlite()}
        raise ConfigError(f"{self.address}: there is no source for {self.scheme}://; write {_KNOWN}")

    def _mqtt(self) -> dict[str, Any]:
        match = re.fullmatch(r"(mqtts?)://(?:([^:@/]+)(?::([^@/]*))?@)?([^/]+)(?:/(.*))?", self.address)
        if match is None:
            raise ConfigError(f"{self.address}: write broker and topics, as mqtt://broker:1883/plant/#")
        scheme, user, password, host, topic = match.groups()
        settings: dict[str, Any] = {"url": f"{scheme}://{host}", "topic": topic or "#"}
        if scheme == "mqtts":
            settings["tls"] = {}
        return settings | self._credentials(user, password)

    @property
    def is_sparkplug(self) -> bool:
        """Whether it is what edge nodes of Sparkplug B send, which say themselves what their signals are."""
        return self.scheme in ("mqtt", "mqtts") and self._mqtt()["topic"].split("/")[0] == NAMESPACE

    def _sparkplug(self) -> dict[str, Any]:
        settings = self._mqtt()
        _, *levels = settings.pop("topic").split("/")
        group = levels[0] if levels else "#"
        return settings | ({} if group in ("#", "+", "") else {"groups": group})

    @staticmethod
    def _credentials(user: str | None, password: str | None) -> dict[str, str]:
        if password:
            os.environ[PASSWORD] = unquote(password)
        given = {"user": unquote(user)} if user else {}
        return given | ({"password": f"${{{PASSWORD}}}"} if password else {})

    def _postgres(self) -> dict[str, Any]:
        where = urlsplit(self.address)
        steps, asked = where.path.strip("/").split("/"), parse_qs(where.query)
        if len(steps) != 2:
            raise ConfigError(
                f"{self.address}: write database and table, as postgresql://host/plant/public.readings?cursor=id"
            )
        port = f":{where.port}" if where.port else ""
        settings: dict[str, Any] = {"url": f"postgresql://{where.hostname}{port}/{steps[0]}", "table": steps[1]}
        settings["cursor"] = asked["cursor"][0].split(",") if "cursor" in asked else "id"
        return settings | self._credentials(where.username, where.password) | {"follow": True}

    def _sqlite(self) -> dict[str, Any]:
        where, _, more = self.address.partition("://")[2].partition("?")
        path, _, table = where.rpartition("/")
        if not Path(path).is_file():
            raise ConfigError(
                f"there is no file {path or where}; write a file and a table of it, as sqlite://plant.db/readings"
            )
        cursor = parse_qs(more).get("cursor", [""])[0]
        return {"path": path, "table": table} | ({"cursor": cursor.split(",")} if cursor else {}) | {"follow": True}

    # --------------------------------------------------------------------------------------------------------- files

    def _files(self, form: Form | None) -> dict[str, Any]:
        settings: dict[str, Any] = {"path": self.address}
        if form is not None:
            settings |= {key: value for key, value in form.files.items() if not self._says(key, value)}
        return settings

    def _says(self, key: str, value: Any) -> bool:
        """Whether the names of the files say a format already."""
        if key != "format":
            return False
        known = {
            ".csv": "csv",
            ".tsv": "csv",
            ".xml": "xml",
            ".ndjson": "ndjson",
            ".jsonl": "ndjson",
            ".parquet": "parquet",
        }
        return all(known.get(Path(path.name.removesuffix(".gz")).suffix) == value for path in self.paths())

    def paths(self) -> list[Path]:
        """Return the files there are, in natural order; `ConfigError` if there are none."""
        known = Files(path=self.address).paths()
        whole = Path(self.address)
        if not known and whole.is_dir():
            known = Files(path=self.address, format="text").paths()
        if not known and whole.is_dir():
            raise ConfigError(f"{self.address} is a folder that holds no file yet. A source is {_KNOWN}")
        if not known:
            here = ", ".join(sorted(p.name for p in whole.parent.iterdir())[:5]) if whole.parent.is_dir() else ""
            hint = f"; in that folder there are {here}" if here and not glob.has_magic(self.address) else ""
            raise ConfigError(f"no file matches {self.address}{hint}. A source is {_KNOWN}")
        return known

    def sample(self, listen_s: float = 5.0) -> Sample:
        """Return a sample of what the source gives; of a live one what comes within ``listen_s``."""
        if self.is_files:
            base = Files(path=self.address).base()
            return Sample(
                [Piece(str(p.relative_to(base)), _beginning(p)) for p in self.paths()[:FILES_MAX]], is_files=True
            )
        settings = self.source()
        if "mqtt" in settings:
            # What the broker has kept counts in a look, though not in the run: slow devices retain what they said last.
            settings["mqtt"] |= {"retained": True, "qos": 0}
        if "sqlite" in settings:
            settings["sqlite"]["follow"] = False  # what is there is enough to look at
        batches = [b for b in read_some(_built(settings), MESSAGES_MAX, listen_s, CONNECT_S) if b.port == OUT]
        pieces = [
            Piece(topic or "", payload)
            for batch in batches
            for topic, payload in zip(batch.rows["topic"].to_pylist(), batch.rows["payload"].to_pylist(), strict=True)
        ]
        if not pieces:
            raise SourceError(
                f"{self.address}: nothing came within {listen_s:g} s. Is the address right, and does anything publish "
                "there? For devices that speak seldom: --listen 60"
            )
        return Sample(pieces)

    def typed(self) -> Form | None:
        """Return the form of a source that gives typed columns: Parquet, or a table of a database; else None."""
        is_table = self.scheme in ("postgres", "postgresql")
        if not is_table and not (self.is_files and self.paths()[0].name.endswith(".parquet")):
            return None
        settings = self.source()
        if is_table:
            settings["postgres"]["follow"] = False
        rows = [b.rows for b in read_some(_built(settings), ROWS_MAX, 10.0) if b.port == OUT]
        if not rows or not sum(map(len, rows)):
            raise SourceError(f"{self.address}: there are no rows yet to look at")
        table = pa.Table.from_batches(rows)
        said = f"a table with {table.num_columns} columns, {table.num_rows} rows looked at"
        return Form("", {}, [""] * table.num_rows, [_typed(name, table[name]) for name in table.column_names], [said])


def named_by(source: str, more: Sequence[str]) -> Named:
    """Return the source of an address; of several files, as a shell makes them of a pattern, the pattern for all."""
    if not more:
        return Named(source)
    paths = [Path(path) for path in (source, *more)]
    folders, suffixes = {path.parent for path in paths}, {path.suffix for path in paths}
    if len(folders) == 1 and len(suffixes) == 1 and all(path.is_file() for path in paths):
        pattern = str(folders.pop() / f"*{suffixes.pop()}")
        if set(map(Path, glob.glob(pattern))) == set(paths):  # noqa: PTH207
            return Named(pattern)
    raise ConfigError(
        f"these are {len(paths)} sources; name one, or a pattern for several files in quotes: 'readings/*.csv'"
    )


def _built(settings: Mapping[str, Any]) -> Source:
    ((name, given),) = settings.items()
    told = {key: os.environ.get(PASSWORD, "") if key == "password" else value for key, value in given.items()}
    try:
        source = build("source", {name: told})
    except PydanticCustomError as error:
        raise ConfigError("; ".join(sentences(error))) from error
    assert isinstance(source, Source)
    return source


def _typed(name: str, column: pa.ChunkedArray) -> SampledField:
    kind = column.type
    values = column.to_pylist()
    is_number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    if pa.types.is_timestamp(kind):
        values = [None if value is None else value.isoformat() for value in values]
    return SampledField(name, values, [float(v) if is_number and v is not None else None for v in values])


def _beginning(path: Path) -> bytes:
    """The beginning of a file: whole lines, or all of a document."""
    try:
        with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as file:
            head: bytes = file.read(HEAD_BYTES)
            if head.startswith(b"SQLite format 3\0"):
                raise SourceError(f"{path} is a database of SQLite; name a table in it: sqlite://{path}/TABLE")
            more = file.read(1)
            if more and head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"[", b"<", b"{\n", b"{\r\n")):
                return bytes(head + more + file.read(WHOLE_BYTES))
    except (OSError, EOFError, zlib.error) as error:
        raise SourceError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
    return head[: head.rfind(b"\n") + 1] or head if more else head


def estimated_rows(named: Named, form: Form, sample: Sample) -> int:
    """Return about how many rows all files have, by their sizes and the rows in the sample."""
    lines = [line for piece in sample.pieces for line in piece.payload.splitlines() if line.strip()]
    rows = len(form.topics)
    if form.decoder not in ("json", "xml"):
        rows = max(rows, len(lines))  # of a table only the beginning was looked at
    elif rows >= ROWS_MAX:
        rows = max(rows, len(lines) * rows // ROWS_MAX)
    seen = sum(len(piece.payload) for piece in sample.pieces)
    whole = sum(path.stat().st_size * (8 if path.name.endswith(".gz") else 1) for path in named.paths())
    return round(rows * max(1.0, whole / max(1, seen)))


def read_sample(plan: Plan, sample: Sample) -> tuple[int, int, Counter[str]]:
    """Return how many rows of a sample the pipeline reads, of how many, and why others are not, by reason."""
    (origin,) = plan.sources
    batches: Sequence[Batch]
    batches = read_some(origin.source, ROWS_MAX, 10.0) if sample.is_files else [_as_batch(sample)]
    states = [operator.initial() for operator in origin.chain]
    count, reasons = 0, Counter[str]()
    for batch in batches:
        flowing = [batch]
        for i, operator in enumerate(origin.chain):
            left: list[Batch] = []
            for one in flowing:
                if one.port != OUT:
                    continue
                states[i], out = operator.step(states[i], one)
                left += out
            for one in left:
                if one.port not in (OUT, NEW) and len(one):
                    names = one.rows.schema.names
                    reasons.update(one.rows["reason"].to_pylist() if "reason" in names else ["late"] * len(one))
            flowing = [one for one in left if one.port == OUT]
        count += sum(len(one) for one in flowing)
    return count, count + reasons.total(), reasons


def _as_batch(sample: Sample) -> Batch:
    pieces = sample.pieces
    topics = pa.array([piece.topic for piece in pieces]).dictionary_encode()
    arrays = [
        pa.array([piece.payload for piece in pieces], pa.binary()), topics,
        pa.array(range(len(pieces)), pa.int64()), as_times(np.full(len(pieces), NOW_US)),
    ]  # fmt: skip
    return Batch(pa.RecordBatch.from_arrays(arrays, schema=RAW), START)


NOW_US = 4_102_444_800_000_000
"""When a sample is taken to have arrived: so late that no time in it lies in the future."""
