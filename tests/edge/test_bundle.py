"""Bundles: only what is signed with our key, whole, and passes its self-test."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tocsin.edge.bundle import BundleRefused, _sign, pack, read_key, unpack
from tocsin.errors import ConfigError
from tocsin.estimate.model import EXAMPLE
from tocsin.models.store import Store

KEY = bytes(range(32))
STORE = Store(EXAMPLE)


def test_what_is_packed_comes_out_and_starts() -> None:
    bundle = unpack(pack(STORE, "pair", 1, KEY, 7), KEY)
    assert (bundle.manifest, bundle.made_us) == (STORE.show("pair", 1), 7)
    assert bundle.files == STORE.files("pair", 1)
    assert np.allclose(bundle.start().predict(bundle.windows), bundle.answers)


@pytest.mark.parametrize("data", [b"", b"[]", b"null", b'{"content": 1, "signature": ""}', b"\xff"])
def test_what_is_no_bundle_is_refused(data: bytes) -> None:
    with pytest.raises(BundleRefused):
        unpack(data, KEY)


def test_what_was_changed_or_signed_by_others_is_refused() -> None:
    data = pack(STORE, "tide", 1, KEY, 7)
    with pytest.raises(BundleRefused, match="not signed with the key of this device"):
        unpack(data, bytes(32))
    tree = json.loads(data)
    for at in range(0, len(tree["content"]), 97):
        changed = tree["content"][:at] + chr(ord(tree["content"][at]) ^ 1) + tree["content"][at + 1 :]
        with pytest.raises(BundleRefused, match="not signed"):
            unpack(json.dumps(tree | {"content": changed}).encode(), KEY)


def test_a_model_that_does_not_say_what_it_said_is_refused() -> None:
    inner = json.loads(json.loads(pack(STORE, "tide", 1, KEY, 7))["content"])
    inner["answers"][2] += 0.1
    content = json.dumps(inner)
    signed = json.dumps({"content": content, "signature": _sign(content.encode(), KEY)}).encode()
    with pytest.raises(BundleRefused, match=r"fails its self-test: an answer is off by 0\.1"):
        unpack(signed, KEY).start()


def test_ed25519(tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    private, public, other = (tmp_path / name for name in ("key.pem", "public.pem", "other.pem"))
    for path in (private, other):
        subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", path], check=True, timeout=30)
    subprocess.run(["openssl", "pkey", "-in", private, "-pubout", "-out", public], check=True, timeout=30)
    assert unpack(pack(STORE, "tide", 1, read_key(private), 7), read_key(public)).manifest.name == "tide"
    with pytest.raises(BundleRefused, match="not signed"):
        unpack(pack(STORE, "tide", 1, read_key(other), 7), read_key(public))
    with pytest.raises(
        BundleRefused, match="not signed"
    ):  # the public key is no secret: who has it cannot sign with it
        unpack(pack(STORE, "tide", 1, public.read_bytes().replace(b"-----BEGIN", b"----BEGIN"), 7), read_key(public))


def test_a_key_is_long_enough(tmp_path: Path) -> None:
    (tmp_path / "short").write_bytes(b"secret")
    with pytest.raises(ConfigError, match=r"6 bytes, fewer than 32: openssl rand 32"):
        read_key(tmp_path / "short")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_key(tmp_path / "none")
