"""``tocsin certs``: what exists is kept, what is revoked stays revoked, and openssl finds nothing wrong."""

from __future__ import annotations

import shutil
import stat
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from servers import Needs

from tocsin.cli import main
from tocsin.mqtt.authority import ACL


def made(folder: Path, *arguments: str) -> str:
    done = CliRunner().invoke(main, ["certs", str(folder), *arguments])
    assert done.exit_code == 0, done.output
    return done.output


def test_what_exists_is_kept(tmp_path: Path) -> None:
    made(tmp_path, "pump-1", "--broker", "broker.plant.local")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(before) == {
        "acl", "ca.key", "ca.pem", "crl.pem", "pump-1.key", "pump-1.pem", "server.key", "server.pem"
    }  # fmt: skip
    (tmp_path / "acl").write_text("# our own")
    told = made(tmp_path, "pump-1", "pump-2")
    assert "pump-2.pem" in told
    assert "pump-1" not in told
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert all(after[name] == content for name, content in before.items() if name != "acl")
    assert after["acl"] == b"# our own"
    assert all(stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 for path in tmp_path.glob("*.key"))


def test_openssl_agrees(tmp_path: Path, needs: Needs) -> None:
    openssl = needs("openssl")
    made(tmp_path, "pump-1", "pump-2", "--broker", "10.0.0.7")
    shutil.copy(tmp_path / "pump-2.pem", tmp_path / "was.pem")
    made(tmp_path, "--revoke", "pump-2")
    made(tmp_path, "pump-3", "--revoke", "pump-1")

    def verified(name: str, purpose: str) -> str:
        command = [openssl, "verify", "-x509_strict", "-purpose", purpose, "-CAfile", "ca.pem", "-CRLfile", "crl.pem"]
        done = subprocess.run([*command, "-crl_check", name], cwd=tmp_path, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    assert "OK" in verified("server.pem", "sslserver")
    assert "OK" in verified("pump-3.pem", "sslclient")
    assert "revoked" in verified("was.pem", "sslclient")
    assert "OK" not in verified("server.pem", "sslclient")
    shown = subprocess.run(
        [openssl, "x509", "-in", "server.pem", "-noout", "-text"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "IP Address:10.0.0.7" in shown
    assert "DNS:localhost" in shown


def test_a_device_that_was_revoked_can_be_made_anew(tmp_path: Path) -> None:
    made(tmp_path, "pump-1")
    first = (tmp_path / "pump-1.pem").read_bytes()
    made(tmp_path, "--revoke", "pump-1")
    assert not (tmp_path / "pump-1.pem").exists()
    made(tmp_path, "pump-1")
    assert (tmp_path / "pump-1.pem").read_bytes() != first


@pytest.mark.parametrize("arguments", [["ca"], ["../x"], ["a b"], ["--revoke", "nobody"], ["x", "--days", "0"]])
def test_what_cannot_be_is_told(tmp_path: Path, arguments: list[str]) -> None:
    done = CliRunner().invoke(main, ["certs", str(tmp_path / "certs"), *arguments])
    assert done.exit_code != 0
    assert "Traceback" not in done.output


def test_the_acl_is_that_of_the_examples() -> None:
    example = Path(__file__).parent.parent.parent / "examples" / "mosquitto" / "acl"
    assert [line for line in example.read_text().splitlines() if line and line[0] != "#"] == [
        line for line in ACL.splitlines() if line and line[0] != "#"
    ]
