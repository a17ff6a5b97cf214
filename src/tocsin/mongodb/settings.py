"""How to reach a MongoDB, and who we are there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr, field_validator

from tocsin.errors import ConfigError, MissingExtra
from tocsin.settings import Settings
from tocsin.settings.tls import Tls

if TYPE_CHECKING:
    from bson.raw_bson import RawBSONDocument
    from pymongo import MongoClient

_URL = re.compile(r"mongodb(\+srv)?://(?P<hosts>[^/?#@]+)/(?P<database>[^/?#\s.$\"\\]+)(\?[^#\s]*)?")
_TIMES = {"serverSelectionTimeoutMS": 5_000, "connectTimeoutMS": 5_000, "socketTimeoutMS": 30_000}
_SECRETS = re.compile(r"(?i)[?&](password|tlsCertificateKeyFilePassword|authMechanismProperties)=")


class ServerSettings(Settings):
    """How to reach a database, and who we are there."""

    url: str
    """The database: ``mongodb://host:27017/database``; several hosts of a replica set with commas, options after ``?``
    as MongoDB's own tools take them."""
    user: str | None = None
    """User name; without one nobody is asked who we are."""
    password: SecretStr | None = None
    """Password; write it as ``${env:NAME}`` or ``${file:PATH}``."""
    auth_source: str = "admin"
    """The database that knows the user."""
    tls: Tls | None = None
    """Certificates; ``tls: {}`` trusts what the operating system trusts. Our own certificate and its key stand together
    in the file ``cert``."""

    @field_validator("url")
    @classmethod
    def _url(cls, url: str) -> str:
        if "@" in url or _SECRETS.search(url):
            raise ConfigError("user and password do not belong in the url; give them as the settings user and password")
        if not _URL.fullmatch(url):
            raise ConfigError(f"{url!r} is not the address of a database; write mongodb://host:27017/database")
        return url

    @property
    def database(self) -> str:
        """The name of the database."""
        match = _URL.fullmatch(self.url)
        assert match is not None
        return match["database"]

    @property
    def address(self) -> str:
        """The address without its options, for people."""
        return self.url.partition("?")[0]

    def require(self, given: Path) -> None:
        """Raise `ConfigError` for a library that is not installed, certificates that cannot be read, wrong options."""
        try:
            from pymongo.errors import PyMongoError
            from pymongo.uri_parser import parse_uri
        except ImportError as error:
            raise MissingExtra("pymongo", "mongodb", "mongodb") from error
        if (self.user is None) != (self.password is None):
            raise ConfigError("set both user and password, or neither")
        if self.tls is not None:
            if self.tls.key is not None:
                raise ConfigError("tls.key: write certificate and key into one file, and name it as tls.cert")
            self.tls.context(given)
        if self.url.startswith("mongodb://"):  # the options of the other kind stand in the DNS
            try:
                parse_uri(self.url, warn=False)
            except (PyMongoError, ValueError) as error:
                raise ConfigError(f"{self.address}: {error}") from error

    def client(self, given: Path) -> MongoClient[RawBSONDocument]:
        """Return a client that gives documents as bytes; it connects when it is asked something.

        Relative certificate files start at ``given``.

        Raises
        ------
        ConfigError
            The address cannot be looked up.
        """
        self.require(given)
        import pymongo
        from bson.raw_bson import RawBSONDocument
        from pymongo.errors import ConfigurationError, InvalidURI

        settings: dict[str, Any] = {**_TIMES, "appname": "tocsin", "document_class": RawBSONDocument}
        settings |= {"readConcernLevel": "majority"}  # what may be rolled back after a failover is not read
        if self.user is not None and self.password is not None:
            settings |= {"username": self.user, "password": self.password.get_secret_value()}
            settings["authSource"] = self.auth_source
        if self.tls is not None:
            settings["tls"] = True
            names = {"tlsCAFile": self.tls.ca, "tlsCertificateKeyFile": self.tls.cert}
            settings |= {name: str(given / file) for name, file in names.items() if file is not None}
        try:
            return pymongo.MongoClient(self.url, **settings)
        except (ConfigurationError, InvalidURI, ValueError) as error:
            raise ConfigError(f"{self.address}: {error}") from error
