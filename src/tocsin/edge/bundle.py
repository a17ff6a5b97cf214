"""A bundle: one version of a model as one signed message, with a self-test, for devices that trust nobody else.

It is JSON: ``content`` (a text, itself JSON) and its ``signature``, by HMAC-SHA-256 with a key that both sides have, or
by Ed25519 with a private key here and its public key on the devices. Nothing of the content is looked at before the
signature has been checked.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tocsin.errors import ConfigError, CorruptState, MissingExtra
from tocsin.models.forecaster import Forecaster
from tocsin.models.manifest import Manifest
from tocsin.models.store import Store

KEY_BYTES_MIN = 32
TESTS = 4
TOLERANCE = 1e-3
"""How far an answer of the self-test may be off, as a share of the usual change: processors round differently."""


class BundleRefused(CorruptState):
    """A bundle that is not taken: not signed with our key, older than what runs, damaged, or failing its self-test."""


@dataclass(frozen=True)
class Bundle:
    """What a device needs of one version."""

    manifest: Manifest
    files: Mapping[str, bytes]
    made_us: int
    """When it was packed: a device takes none that is older than the one before it."""
    windows: Any
    """Windows of the self-test, shape (tests, window, inputs)."""
    answers: Any
    """What the model said of them where it was packed, shape (tests,)."""

    def start(self) -> Forecaster:
        """Returns the model, loaded; `BundleRefused` if it does not say what it said where it was packed."""
        try:
            model = Forecaster(self.manifest, self.files, self.manifest.name)
            which = np.zeros(len(self.windows), np.int64) if model.keys else None
            off = np.abs(model.predict(self.windows, which) - self.answers)
        except (ConfigError, CorruptState, ValueError, KeyError) as error:
            raise BundleRefused(f"version {self.manifest.version} does not start: {error}") from error
        if not (off <= TOLERANCE * model.change[0]).all():
            raise BundleRefused(
                f"version {self.manifest.version} fails its self-test: an answer is off by {np.max(off):.3g}"
            )
        return model


def pack(store: Store, name: str, version: int, key: bytes, made_us: int) -> bytes:
    """Returns a version of a forecaster as a bundle that is signed with a key (see `read_key`)."""
    model = Forecaster.open(store, name, version)
    manifest = model.manifest
    drawn = np.random.default_rng(version).normal(size=(TESTS, manifest.window, len(manifest.inputs)))
    windows = model.mean[0] + drawn * model.scale[0]
    answers = model.predict(windows, np.zeros(TESTS, np.int64) if model.keys else None)
    content = json.dumps(
        {
            "manifest": manifest.to_json(),
            "files": {file: base64.b64encode(data).decode() for file, data in store.files(name, version).items()},
            "made_us": made_us,
            "windows": windows.tolist(),
            "answers": answers.tolist(),
        }
    )
    return json.dumps({"content": content, "signature": _sign(content.encode(), key)}).encode()


def unpack(data: bytes, key: bytes) -> Bundle:
    """Returns what a bundle holds; `BundleRefused` unless it is signed with the key, whole, as its manifest says."""
    try:
        outer = json.loads(data)
        content, signature = outer["content"].encode(), str(outer["signature"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleRefused("this is no bundle of a model; make one: tocsin models deploy") from error
    if not _is_signed(content, signature, key):
        raise BundleRefused("the bundle is not signed with the key of this device; it is not looked at")
    inner = json.loads(content)
    try:
        manifest = Manifest.from_json(inner["manifest"])
        files = {name: base64.b64decode(text) for name, text in inner["files"].items()}
        manifest.check_files(files, manifest.name)
    except (CorruptState, ConfigError) as error:
        raise BundleRefused(str(error)) from error
    return Bundle(manifest, files, int(inner["made_us"]), np.array(inner["windows"]), np.array(inner["answers"]))


def read_key(path: Path | str) -> bytes:
    """Returns the key in a file: PEM (Ed25519), or at least 32 bytes that nobody can guess (HMAC)."""
    try:
        key = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(
            f"the key {path} cannot be read ({error.strerror}); make one: openssl rand 32 > {path}"
        ) from error
    if not _is_pem(key) and len(key) < KEY_BYTES_MIN:
        raise ConfigError(f"the key {path} has {len(key)} bytes, fewer than {KEY_BYTES_MIN}: openssl rand 32 > {path}")
    return key


def _is_pem(key: bytes) -> bool:
    return key.startswith(b"-----BEGIN")


def _pem_loader() -> Any:
    try:
        from cryptography.hazmat.primitives import serialization
    except ImportError:
        raise MissingExtra("cryptography", "certs", "a key in a PEM file") from None
    return serialization


def _sign(content: bytes, key: bytes) -> str:
    if not _is_pem(key):
        return hmac.new(key, content, hashlib.sha256).hexdigest()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = _pem_loader().load_pem_private_key(key, None)
    if not isinstance(private, Ed25519PrivateKey):
        raise ConfigError("a bundle is signed with an Ed25519 key: openssl genpkey -algorithm ed25519")
    return private.sign(content).hex()


def _is_signed(content: bytes, signature: str, key: bytes) -> bool:
    if not _is_pem(key):
        return hmac.compare_digest(hmac.new(key, content, hashlib.sha256).hexdigest().encode(), signature.encode())
    public = _pem_loader().load_pem_public_key(key)
    from cryptography.exceptions import InvalidSignature

    try:
        public.verify(bytes.fromhex(signature), content)
    except (InvalidSignature, ValueError):
        return False
    return True
