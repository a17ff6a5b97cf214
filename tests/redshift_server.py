"""A stand-in for Amazon Redshift, which cannot be started here: a real PostgreSQL behind a proxy that answers COPY.

What reaches it is the real protocol. Statements that Redshift does not know are refused, and ``copy ... from
's3://.../manifest'`` loads the files that the manifest names from the S3 server of the tests, with what MAXERROR allows
left out and told in ``sys_load_error_detail``. What it does not do is said in docs/redshift.md.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from postgres_server import Postgres
from servers import ObjectStore

ROLE = "arn:aws:iam::123456789012:role/load"
"""The role that the stand-in knows, beside ``default``."""
_KNOWS_NOT = re.compile(
    r"on conflict|savepoint|advisory|\bany\s*\(|make_interval|\bjsonb?\b|\[\]|\btext\b|\bbytea\b|\bindex\b|merge into"
    r"|lock_timeout|set constraints|from stdin|identity|vacuum \(|access_key|on commit|returning",
    re.IGNORECASE,
)
"""Of PostgreSQL, and not of Redshift; and credentials in a statement."""
_COPY = re.compile(
    r"copy \"(?P<table>[^\"]+)\" \((?P<columns>[^)]*)\) from '(?P<manifest>s3://[^']+)' "
    r"iam_role (?P<role>default|'[^']+')(?: region '(?P<region>[^']+)')? format as csv null as '(?P<null>[^']*)' "
    r"gzip manifest dateformat 'auto' timeformat 'auto' maxerror (?P<most>\d+) compupdate off statupdate off"
)
_BESIDE = """
    do $$ begin create domain super as jsonb; exception when duplicate_object then end $$;
    do $$ begin create domain varbyte as text; exception when duplicate_object then end $$;
    create or replace function getdate() returns timestamp language sql as 'select now() at time zone ''utc''';
    create table if not exists sys_load_error_detail
        (file_name char(256), line_number bigint, column_name char(127), error_message char(512));
    grant all on sys_load_error_detail to public
"""
_WITHOUT_TLS = (80877103, 80877104)
"""A client asks for TLS, or for Kerberos."""
_ASKS = (3, 5, 10, 11)
"""Kinds of authentication to which the client answers."""
_PARTS = 16


class Refused(Exception):
    """What Redshift would say."""


class Line(NamedTuple):
    """A row of a file."""

    file: str
    number: int
    data: bytes


class Redshift:
    """Listens on a port of its own; what it holds is the PostgreSQL server's."""

    def __init__(self, server: Postgres, store: ObjectStore) -> None:
        self.server, self.store = server, store
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.statements: list[str] = []
        """All that has come."""
        self.cut_behind = 0
        """The statement, counted from now, whose answer is not given: the connection is cut; 0: none."""
        self.on_copy: Callable[[], None] = lambda: None
        """Called before a COPY reads its manifest."""
        server.execute(_BESIDE)
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return self.server.url.replace(f":{self.server.port}/", f":{self.port}/")

    def close(self) -> None:
        self._listener.close()

    def is_cut(self) -> bool:
        """Whether the connection is to be cut behind this statement."""
        if self.cut_behind == 0:
            return False
        self.cut_behind -= 1
        return self.cut_behind == 0

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            with client, socket.create_connection(("127.0.0.1", self.server.port), 5) as server:
                server.settimeout(None)
                Session(self, client.makefile("rwb"), server.makefile("rwb")).run()
        except OSError:
            return  # one of the two has gone

    def read(self, address: str) -> bytes:
        """Returns an object of the S3 server."""
        bucket, _, name = address.removeprefix("s3://").partition("/")
        try:
            data: bytes = self.store.client.get_object(Bucket=bucket, Key=name)["Body"].read()
        except self.store.client.exceptions.NoSuchKey:
            raise Refused(f"S3ServiceException:The specified key does not exist.,Status 404,{name}") from None
        return data


class Session:
    """One connection: each statement is answered before the next is read."""

    def __init__(self, redshift: Redshift, client: Any, server: Any) -> None:
        self._redshift, self._client, self._server = redshift, client, server

    def run(self) -> None:
        self._begin()
        while (message := _message(self._client)) is not None:
            kind, body = message
            if kind == b"X":
                return
            if kind != b"Q":
                raise AssertionError(f"message {kind!r} of the extended protocol")
            statement = body[:-1].decode()
            self._redshift.statements.append(statement)
            answer = self._answer(statement)
            if self._redshift.is_cut():
                return
            for one in answer:
                self._client.write(one)
            self._client.flush()

    def _begin(self) -> None:
        """Carry what is said before the first statement."""
        while True:
            (length,) = struct.unpack("!i", self._client.read(4))
            start = self._client.read(length - 4)
            if struct.unpack("!i", start[:4])[0] not in _WITHOUT_TLS:
                break
            self._client.write(b"N")
            self._client.flush()
        self._server.write(struct.pack("!i", length) + start)
        self._server.flush()
        while (message := _message(self._server)) is not None:
            kind, body = message
            self._client.write(_packed(kind, body))
            self._client.flush()
            if kind == b"Z" or kind == b"E":
                return
            if kind == b"R" and struct.unpack("!i", body[:4])[0] in _ASKS:
                told = _message(self._client)
                assert told is not None
                self._server.write(_packed(*told))
                self._server.flush()

    def _answer(self, statement: str) -> Sequence[bytes]:
        try:
            unknown = _KNOWS_NOT.search(re.sub(r"'(?:[^']|'')*'|\"[^\"]*\"", "?", statement))
            if unknown:
                raise Refused(f"syntax error at or near {unknown[0]}")
            if statement.startswith("copy"):
                return self._load(statement)
        except Refused as error:
            # The transaction is broken by it, as by any other error.
            why = str(error).replace("'", "''").replace("%", "%%")
            return self._asked(f"do $$ begin raise exception '{why}' using errcode = 'XX000'; end $$")
        return self._asked(statement)

    def _asked(self, statement: str, data: bytes | None = None) -> list[bytes]:
        """Returns what the server answers to a statement, with the rows that it asks for."""
        self._server.write(_packed(b"Q", statement.encode() + b"\0"))
        self._server.flush()
        answer: list[bytes] = []
        while (message := _message(self._server)) is not None:
            kind, body = message
            if kind == b"G":
                self._server.write(_packed(b"d", data or b"") + _packed(b"c", b""))
                self._server.flush()
                continue
            answer.append(_packed(kind, body))
            if kind == b"Z":
                return answer
        raise ConnectionError("the server has gone")

    def _load(self, statement: str) -> Sequence[bytes]:
        """Answer COPY."""
        asked = _COPY.fullmatch(statement)
        if asked is None:
            raise Refused("syntax error in COPY")
        if asked["role"] not in ("default", f"'{ROLE}'"):
            raise Refused(f"S3ServiceException:User is not authorized to assume IAM Role {asked['role']},Status 403")
        self._redshift.on_copy()
        lines = list(self._lines(asked["manifest"], asked["null"]))
        into = f'copy "{asked["table"]}" ({asked["columns"]}) from stdin (format csv)'
        refused = self._put(into, lines)
        for line, column, message in refused:
            insert = "insert into sys_load_error_detail values (%s, %s, %s, %s)"
            self._redshift.server.execute(insert, line.file, line.number, column, message)
        if len(refused) > int(asked["most"]):
            raise Refused(f"Load into table '{asked['table']}' failed. Check 'sys_load_error_detail' for details.")
        done = self._asked("select 1")[-1]
        return [_packed(b"C", b"COPY\0"), done]

    def _lines(self, manifest: str, null: str) -> Iterator[Line]:
        """Yields the rows of all files as PostgreSQL's COPY takes them."""
        for entry in json.loads(self._redshift.read(manifest))["entries"]:
            assert entry["mandatory"]
            data = self._redshift.read(entry["url"])
            assert len(data) == entry["meta"]["content_length"]
            reader = csv.reader(io.StringIO(gzip.decompress(data).decode(), newline=""))
            for fields in reader:
                quoted = ['"' + field.replace('"', '""') + '"' if field != null else "" for field in fields]
                yield Line(entry["url"], reader.line_num, (",".join(quoted) + "\n").encode())

    def _put(self, into: str, lines: Sequence[Line]) -> list[tuple[Line, str, str]]:
        """Put lines into the staging table; returns those that are refused, with the column and the reason."""
        if not lines:
            return []
        self._asked("savepoint load")
        answer = self._asked(into, b"".join(line.data for line in lines))
        errors = [one for one in answer if one[:1] == b"E"]
        if not errors:
            self._asked("release savepoint load")
            return []
        self._asked("rollback to savepoint load")
        if len(lines) == 1:
            said = {field[:1]: field[1:].decode() for field in errors[0][5:].split(b"\0") if field}
            column = re.search(r"column (\w+)", said.get(b"W", ""))
            return [(lines[0], column[1] if column else "", said[b"M"])]
        size = -(-len(lines) // _PARTS)
        return [one for at in range(0, len(lines), size) for one in self._put(into, lines[at : at + size])]


def _message(stream: Any) -> tuple[bytes, bytes] | None:
    kind = stream.read(1)
    if not kind:
        return None
    (length,) = struct.unpack("!i", stream.read(4))
    return kind, stream.read(length - 4)


def _packed(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body
