"""Certificates: whom to trust, and who we are."""

from __future__ import annotations

import ssl
from pathlib import Path

from tocsin.errors import ConfigError
from tocsin.settings import Settings


def server_context(cert: Path, key: Path | None, clients: Path | None, revoked: Path | None = None) -> ssl.SSLContext:
    """Returns the context of a server that speaks TLS 1.2 or newer.

    Clients need a certificate that one in ``clients`` has issued, if that is given, and that is not among the revoked.
    Raises OSError, or `ssl.SSLError`, which is one, for files that are not there or hold something else.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(cert, key)
    if clients is not None:
        context.load_verify_locations(clients)
        context.verify_mode = ssl.CERT_REQUIRED
    if revoked is not None:
        context.load_verify_locations(revoked)
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    return context


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
