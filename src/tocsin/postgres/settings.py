"""What source and sink `postgres` have in common: how to reach the server, and who we are there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr, field_validator

from tocsin.errors import ConfigError, MissingExtra, SinkError, SourceError
from tocsin.settings import Settings
from tocsin.settings.tls import Tls

if TYPE_CHECKING:
    from psycopg import Connection

CONNECT_S = 10
"""How long an attempt to connect may take."""
_KEEPALIVE = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3, "tcp_user_timeout": 30_000}
"""A connection whose other end is gone is given up after a minute at most."""
# What we write and read has one form, whatever the server, the database or the user have set. A commit that the
# server has confirmed must be durable there, since the rows are then deleted here.
_SESSION = """
    set timezone to 'UTC'; set datestyle to 'ISO, YMD'; set intervalstyle to 'postgres'; set bytea_output to 'hex';
    set extra_float_digits to 1; set lock_timeout to '30s'; set idle_in_transaction_session_timeout to 0;
    select set_config('synchronous_commit', 'on', false) where current_setting('synchronous_commit') = 'off'
"""


class ServerSettings(Settings):
    """How to reach a database, and who we are there."""

    SERVER: ClassVar[str] = "PostgreSQL"
    PORT: ClassVar[int] = 5432
    """Where it listens unless the url says another port."""
    EXTRA: ClassVar[str] = "postgres"

    url: str
    """The database: ``postgresql://host:5432/database``."""
    user: str | None = None
    """User name; by default that of the operating system."""
    password: SecretStr | None = None
    """Password; write it as ``${env:NAME}`` or ``${file:PATH}``. Without it ``~/.pgpass`` is looked into."""
    tls: Tls | None = None
    """Certificates. With it the server's certificate and name must be right; ``tls: {}`` trusts what the operating
    system trusts. Without it TLS is spoken where the server offers it, but nobody looks at who it is."""

    @field_validator("url")
    @classmethod
    def _url(cls, url: str) -> str:
        address(url, cls.PORT)
        return url

    def require(self, given: Path) -> None:
        """Raise `ConfigError` for a library that is not installed, or certificates that cannot be read."""
        try:
            import psycopg  # noqa: F401 (whether it can be)
        except ImportError as error:
            raise MissingExtra("psycopg", self.EXTRA, self.EXTRA) from error
        if self.tls is not None:
            self.tls.context(given)

    def connect(self, given: Path, refusal: type[SourceError] | type[SinkError]) -> Connection:
        """Return a connection on which each statement is a transaction, unless one is opened.

        Relative certificate files start at ``given``.

        Raises
        ------
        Unavailable
            The server is away or busy.
        SourceError or SinkError
            It does not let us in; which of the two says ``refusal``.
        """
        self.require(given)
        import psycopg

        from tocsin.postgres.trouble import trouble

        host, port, database = address(self.url, self.PORT)
        settings: dict[str, Any] = {"host": host, "port": port, "dbname": database, "user": self.user}
        settings["password"] = None if self.password is None else self.password.get_secret_value()
        if self.tls is not None:
            files = {"sslcert": self.tls.cert, "sslkey": self.tls.key}
            settings |= {name: str(given / file) for name, file in files.items() if file is not None}
            settings["sslrootcert"] = "system" if self.tls.ca is None else str(given / self.tls.ca)
            settings |= {"sslmode": "verify-full", "ssl_min_protocol_version": "TLSv1.2"}
        settings |= _KEEPALIVE
        settings |= {"connect_timeout": CONNECT_S, "application_name": "tocsin", "client_encoding": "utf8"}
        connection = None
        try:
            connection = psycopg.connect(**settings, autocommit=True, prepare_threshold=None)
            self.prepare(connection)
        except psycopg.Error as error:
            if connection is not None:
                connection.close()
            raise trouble(self.url, error, refusal) from error
        return connection

    def prepare(self, connection: Connection) -> None:
        """Make a new connection behave as we expect, whatever the server, the database or the user have set."""
        import psycopg

        connection.execute(_SESSION)
        connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED


def address(url: str, port: int = 5432) -> tuple[str, int, str]:
    """Return host, port (by default the given one) and database.

    Examples
    --------
    >>> address("postgresql://db.example/plant")
    ('db.example', 5432, 'plant')
    """
    parts = urlsplit(url)
    try:
        named = parts.port
    except ValueError:
        named = -1
    if parts.username or parts.password:
        raise ConfigError("user and password do not belong in the url; give them as the settings user and password")
    database = unquote(parts.path.strip("/"))
    wrong = parts.scheme not in ("postgresql", "postgres") or not parts.hostname or named == -1
    if wrong or not database or "/" in database or parts.query or parts.fragment:
        # It is not shown: it may hold a password in some form that is not understood.
        raise ConfigError("this is not the address of a database; write postgresql://host:5432/database")
    return str(parts.hostname), named or port, database
