"""Certificates: whom to trust, and who we are."""

from __future__ import annotations

import ssl
from pathlib import Path

from tocsin.errors import ConfigError
from tocsin.settings import Settings


class Tls(Settings):
    """How to know the server, and how it knows us; TLS 1.2 or newer."""

    ca: str | None = None
    """File with the certificates to trust (PEM); else those of the operating system."""
    cert: str | None = None
    """File with this client's certificate (PEM), where the server asks for one."""
    key: str | None = None
    """File with the certificate's key (PEM)."""

    def context(self, folder: Path | None = None) -> ssl.SSLContext:
        """Return a context that verifies the server's certificate and name; relative files start at ``folder``."""

        def path(name: str | None) -> str | None:
            return None if name is None else str((folder or Path()) / name)

        try:
            context = ssl.create_default_context(cafile=path(self.ca))
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            if self.cert is not None:
                context.load_cert_chain(path(self.cert) or "", path(self.key))
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"the TLS files ca={self.ca} cert={self.cert} key={self.key}: {error}") from error
        return context
