"""A certificate authority of the plant's own: certificates for a broker and its devices, and which are revoked.

RFC 5280 (certificates and revocation lists).
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tocsin.errors import ConfigError, MissingExtra

CA_DAYS = 3650
"""How long the authority and its revocation list are valid."""
ACL = """\
# Who may do what. What no line allows is forbidden.
# The words are those of Mosquitto's acl_file; tocsin's own broker reads them too.

# A device (%u: the common name of its certificate) writes below its own name, and reads its own commands.
pattern write plant/%u/#
pattern read plant/%u/command

# tocsin reads all of the plant, and writes alarms.
user tocsin
topic read plant/#
topic write alarms/#
"""
_DEVICE = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


class Authority:
    """The folder of an authority; it is made if it is not there.

    ``ca.pem``, ``ca.key``: the authority; keep the key away from the broker and the devices. ``NAME.pem``,
    ``NAME.key``: a certificate and its key. ``crl.pem``: what is revoked. ``acl``: who may do what. What exists is
    kept.
    """

    def __init__(self, folder: Path) -> None:
        try:
            import cryptography.x509
        except ImportError:
            raise MissingExtra("cryptography", "certs", "making certificates") from None
        self._x509: Any = cryptography.x509
        self.folder = folder
        self.made: list[Path] = []
        """Files that were written."""
        folder.mkdir(parents=True, exist_ok=True)
        self._key = self._own_key("ca")
        self._ca = self._own_ca()
        if not (folder / "crl.pem").exists():
            self._write_revoked([])
        if not (folder / "acl").exists():
            self._write("acl", ACL.encode())

    def server(self, host: str, days: int) -> None:
        """Make the broker's certificate, for its host name or address and for this computer."""
        names = [self._x509.DNSName("localhost"), self._x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        try:
            own = self._x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            own = self._x509.DNSName(host)
        self._sign("server", days, self._x509.oid.ExtendedKeyUsageOID.SERVER_AUTH, [own, *names])

    def device(self, name: str, days: int) -> None:
        """Make a device's certificate; its common name is the device's id, which the broker takes as user name.

        Raises
        ------
        ConfigError
            The name cannot be a device's id.
        """
        if not _DEVICE.fullmatch(name) or name in ("ca", "server", "crl"):
            raise ConfigError(f"'{name}' cannot be a device's id; use letters, digits, '.', '_' and '-'")
        self._sign(name, days, self._x509.oid.ExtendedKeyUsageOID.CLIENT_AUTH, [])

    def revoke(self, name: str) -> None:
        """Put a device's certificate on the revocation list; its files are kept, under names that say so."""
        path = self.folder / f"{name}.pem"
        if not _DEVICE.fullmatch(name) or not path.exists():
            raise ConfigError(f"there is no certificate {path}; the device is named as when it was made")
        certificate = self._x509.load_pem_x509_certificate(path.read_bytes())
        listed = self._x509.load_pem_x509_crl((self.folder / "crl.pem").read_bytes())
        entry = (
            self._x509.RevokedCertificateBuilder()
            .serial_number(certificate.serial_number)
            .revocation_date(datetime.now(UTC))
            .build()
        )
        self._write_revoked([*listed, entry])
        for suffix in (".pem", ".key"):
            (self.folder / f"{name}{suffix}").rename(
                self.folder / f"{name}.revoked-{certificate.serial_number:x}{suffix}"
            )

    def _own_key(self, name: str) -> Any:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec

        path = self.folder / f"{name}.key"
        if path.exists():
            return serialization.load_pem_private_key(path.read_bytes(), None)
        key = ec.generate_private_key(ec.SECP256R1())
        text = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        self._write(path.name, text)
        return key

    def _own_ca(self) -> Any:
        path = self.folder / "ca.pem"
        if path.exists():
            return self._x509.load_pem_x509_certificate(path.read_bytes())
        name = self._named("tocsin plant CA")
        usage = self._usage(key_cert_sign=True, crl_sign=True)
        builder = self._builder(name, name, self._key.public_key(), CA_DAYS)
        builder = builder.add_extension(self._x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(usage, critical=True)
        return self._signed(path, builder)

    def _sign(self, name: str, days: int, purpose: Any, alternatives: Sequence[Any]) -> None:
        path = self.folder / f"{name}.pem"
        if path.exists():
            return
        key = self._own_key(name).public_key()
        builder = self._builder(self._named(name), self._ca.subject, key, days)
        builder = builder.add_extension(self._x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(self._usage(digital_signature=True), critical=True)
        builder = builder.add_extension(self._x509.ExtendedKeyUsage([purpose]), critical=False)
        if alternatives:
            builder = builder.add_extension(self._x509.SubjectAlternativeName(alternatives), critical=False)
        self._signed(path, builder)

    def _builder(self, subject: Any, issuer: Any, key: Any, days: int) -> Any:
        now = datetime.now(UTC)
        end = now + timedelta(days=days)
        return (
            self._x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key)
            .serial_number(self._x509.random_serial_number())
            .not_valid_before(min(now - timedelta(minutes=5), end - timedelta(days=1)))
            .not_valid_after(end)
            .add_extension(self._x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(
                self._x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False
            )
        )

    def _named(self, name: str) -> Any:
        return self._x509.Name([self._x509.NameAttribute(self._x509.oid.NameOID.COMMON_NAME, name)])

    def _usage(self, **used: bool) -> Any:
        every = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
                 "key_cert_sign", "crl_sign", "encipher_only", "decipher_only")  # fmt: skip
        return self._x509.KeyUsage(**{name: used.get(name, False) for name in every})

    def _signed(self, path: Path, builder: Any) -> Any:
        from cryptography.hazmat.primitives import hashes, serialization

        certificate = builder.sign(self._key, hashes.SHA256())
        self._write(path.name, certificate.public_bytes(serialization.Encoding.PEM))
        return certificate

    def _write_revoked(self, entries: Sequence[Any]) -> None:
        from cryptography.hazmat.primitives import hashes, serialization

        now = datetime.now(UTC)
        builder = self._x509.CertificateRevocationListBuilder().issuer_name(self._ca.subject)
        builder = builder.last_update(now - timedelta(minutes=5)).next_update(now + timedelta(days=CA_DAYS))
        for entry in entries:
            builder = builder.add_revoked_certificate(entry)
        self._write("crl.pem", builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def _write(self, name: str, content: bytes) -> None:
        """Write a file that only its owner can read, whole or not at all."""
        path = self.folder / name
        temporary = path.with_name(f".{name}.new")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
        self.made.append(path)
