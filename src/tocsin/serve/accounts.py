"""Accounts and API tokens: who there is, with which role. Of passwords and tokens only a hash is kept.

They lie in ``access.db`` of the state folder, which only its owner may read. Passwords are hashed by scrypt with the
parameters of OWASP's Password Storage Cheat Sheet; tokens are 256 random bits, for which one SHA-256 is enough. There
is no account that nobody made.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import sqlite3
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tocsin.domain.roles import ROLES
from tocsin.engine import audit
from tocsin.errors import ConfigError, CorruptState, UnknownName

PASSWORD_MIN = 12
PASSWORD_MAX = 1024
TOKEN_PREFIX = "tocsin_"  # noqa: S105
RESERVED = ("local", "token", "operator")
"""Names that the audit uses for those who have no account."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,59}")
_N, _R, _P = 2**15, 8, 3
_TABLES = """
create table if not exists accounts (
    name text primary key, role text not null, password text not null, created_us integer not null
) without rowid;
create table if not exists tokens (
    name text primary key, role text not null, sha256 text not null unique, created_us integer not null,
    expires_us integer not null
) without rowid;
"""


@dataclass(frozen=True)
class Account:
    """Somebody who signs in with a name and a password."""

    name: str
    role: str
    password: str = field(repr=False)
    """Its hash. A session lasts no longer than it."""


@dataclass(frozen=True)
class Token:
    """What a program shows."""

    name: str
    role: str
    expires_us: int

    @property
    def is_valid(self) -> bool:
        """Whether it has not expired."""
        return self.expires_us > _now_us()


class Accounts:
    """The accounts and tokens of one pipeline. The page reads them while the command line changes them."""

    def __init__(self, state_folder: Path) -> None:
        self._folder, self._path = state_folder, state_folder / "access.db"
        self._lock = threading.Lock()
        self._db: sqlite3.Connection | None = None

    def are_there(self) -> bool:
        """Returns whether there is an account or a token, expired or not: from then on one has to sign in."""
        return bool(self._rows("select 1 from accounts union all select 1 from tokens limit 1"))

    def add(self, name: str, role: str, password: str) -> None:
        """Make an account."""
        self._check_new(name, role)
        hashed = hash_password(password)
        self._change(
            "account_added", name, role, "insert into accounts values (?, ?, ?, ?)", name, role, hashed, _now_us()
        )

    def change(self, name: str, role: str | None, password: str | None) -> None:
        """Give an account another role or password, which ends its sessions."""
        account = self.account(name)
        if account is None:
            raise UnknownName("account", name, self._names("select name from accounts"))
        role = _known(role or account.role)
        hashed = account.password if password is None else hash_password(password)
        what = f"{role}{', a new password' if password else ''}"
        self._change(
            "account_changed",
            name,
            what,
            "update accounts set role = ?, password = ? where name = ?",
            role,
            hashed,
            name,
        )

    def remove(self, name: str) -> None:
        """Remove an account or a token; what it has opened ends at once."""
        if name in self._names("select name from accounts"):
            self._change("account_removed", name, "", "delete from accounts where name = ?", name)
        elif name in self._names("select name from tokens"):
            self._change("token_removed", name, "", "delete from tokens where name = ?", name)
        else:
            known = self._names("select name from accounts union all select name from tokens")
            raise UnknownName("account or token", name, known)

    def add_token(self, name: str, role: str, expires_us: int) -> str:
        """Make a token; returns it, which is the only time that it is shown."""
        self._check_new(name, role)
        token = TOKEN_PREFIX + secrets.token_urlsafe(32)
        until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(expires_us / 1e6))
        self._change(
            "token_added", name, f"{role} until {until}",
            "insert into tokens values (?, ?, ?, ?, ?)", name, role, _sha256(token), _now_us(), expires_us,
        )  # fmt: skip
        return token

    def has_name(self, name: str) -> bool:
        """Returns whether an account or a token has this name, or the audit uses it for those who have none."""
        return name in (*RESERVED, *self._names("select name from accounts union all select name from tokens"))

    def people(self) -> list[str]:
        """Returns the names of all accounts."""
        return self._names("select name from accounts order by name")

    def account(self, name: str) -> Account | None:
        """Returns the account of this name, if there is one."""
        rows = self._rows("select name, role, password from accounts where name = ?", name)
        return Account(*rows[0]) if rows else None

    def verified(self, name: str, password: str) -> Account | None:
        """Returns the account if the password is right. It takes as long where there is no such account."""
        account = self.account(name)
        is_right = _is_password(password, account.password if account else _nobody())
        return account if account is not None and is_right else None

    def token(self, given: str) -> Token | None:
        """Returns the token with this text, if there is one that has not expired."""
        if not given.startswith(TOKEN_PREFIX):
            return None
        rows = self._rows("select name, role, expires_us from tokens where sha256 = ?", _sha256(given))
        token = Token(*rows[0]) if rows else None
        return token if token is not None and token.is_valid else None

    def named_token(self, name: str) -> Token | None:
        """Returns the token of this name, if there is one that has not expired."""
        rows = self._rows("select name, role, expires_us from tokens where name = ?", name)
        token = Token(*rows[0]) if rows else None
        return token if token is not None and token.is_valid else None

    def listed(self) -> Sequence[tuple[Any, ...]]:
        """Returns all as name, kind, role, when it was made and when it expires."""
        return self._rows(
            "select name, 'account', role, created_us, null from accounts union all "
            "select name, 'token', role, created_us, expires_us from tokens order by 1"
        )

    def _check_new(self, name: str, role: str) -> None:
        _known(role)
        if not _NAME.fullmatch(name) or name in RESERVED:
            raise ConfigError(
                f"'{name}' cannot be a name: it takes up to 60 letters, digits, and . _ @ -, and is none of "
                f"{', '.join(RESERVED)}"
            )
        if self.has_name(name):
            raise ConfigError(f"'{name}' is there already; remove it first, or choose another name")

    def _names(self, query: str) -> list[str]:
        return [name for (name,) in self._rows(query)]

    def _rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self._lock:
            if self._db is None:
                if not self._path.exists():
                    return []
                self._db = self._connected()
            return self._db.execute(query, values).fetchall()

    def _change(self, what: str, subject: str, details: str, query: str, *values: object) -> None:
        """Write down what is about to be done, then do it."""
        audit.write_down(self._folder, audit.this_user(), what, subject, details)
        with self._lock:
            self._db = self._db or self._connected()
            with self._db:
                self._db.execute(query, values)

    def _connected(self) -> sqlite3.Connection:
        self._folder.mkdir(parents=True, exist_ok=True)
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        db = sqlite3.connect(self._path, timeout=5.0, check_same_thread=False)
        try:
            db.execute("pragma synchronous = full")
            db.executescript(_TABLES)
        except sqlite3.DatabaseError as error:
            db.close()
            raise CorruptState(f"{self._path} cannot be read ({error}); bring it back from a backup") from error
        return db


def hash_password(password: str) -> str:
    """Returns what is kept of a password: the method, its parameters, the salt and the hash."""
    if len(password) < PASSWORD_MIN:
        raise ConfigError(f"a password needs at least {PASSWORD_MIN} characters; several words make a good one")
    if len(password) > PASSWORD_MAX:
        raise ConfigError(f"a password has at most {PASSWORD_MAX} characters")
    salt = secrets.token_bytes(16)
    return f"scrypt:{_N}:{_R}:{_P}:{salt.hex()}:{_scrypt(password, salt, _N, _R, _P).hex()}"


def _is_password(password: str, kept: str) -> bool:
    _, n, r, p, salt, hashed = kept.split(":")
    given = _scrypt(password[:PASSWORD_MAX], bytes.fromhex(salt), int(n), int(r), int(p))
    return hmac.compare_digest(given, bytes.fromhex(hashed))


def _scrypt(password: str, salt: bytes, n: int, r: int, p: int) -> bytes:
    return hashlib.scrypt(
        password.encode("utf-8", "surrogatepass"), salt=salt, n=n, r=r, p=p, maxmem=2 * 128 * n * r, dklen=32
    )


def _nobody() -> str:
    """Returns what the password of somebody who is not there is held against."""
    return f"scrypt:{_N}:{_R}:{_P}:{'00' * 16}:{'00' * 32}"


def _known(role: str) -> str:
    if role not in ROLES:
        raise UnknownName("role", role, ROLES)
    return role


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _now_us() -> int:
    return time.time_ns() // 1000
