"""What `tocsin doctor` says of a machine, a folder, and what a pipeline file names."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from servers import Mosquitto, free_port

from tocsin.cli import main
from tocsin.cli.doctor import examine

FILE = """
name: press
folder: {folder}
source: {{mqtt: {{url: "{url}", topic: "plant/#"{more}}}}}
decode: {{json: {{columns: {{machine: category, v: float}}}}}}
key: machine
streams: {{readings: {{sinks: [delta: readings]}}}}
"""


def examined(folder: Path, url: str, more: str = "") -> Result:
    (folder / "press.yaml").write_text(FILE.format(folder=folder / "data", url=url, more=more))
    return CliRunner().invoke(main, ["doctor", str(folder / "press.yaml")])


def test_a_sound_folder_and_a_broker_that_keeps_sessions(mosquitto: Callable[..., Mosquitto], tmp_path: Path) -> None:
    done = examined(tmp_path, mosquitto().url)
    assert done.exit_code == 0, done.output
    assert f"{tmp_path / 'data'} can be written" in done.output
    assert "a sync takes" in done.output
    assert "GiB free" in done.output
    assert "the broker keeps sessions" in done.output
    assert not (tmp_path / "data").exists(), "nothing is made"


def test_a_broker_that_is_away_is_a_warning_with_a_remedy(tmp_path: Path) -> None:
    port = free_port()
    done = examined(tmp_path, f"mqtt://127.0.0.1:{port}")
    assert done.exit_code == 0
    (line,) = (line for line in done.output.splitlines() if "does not answer" in line)
    assert line.startswith("warning")
    assert f"127.0.0.1:{port}" in line
    assert "start it, or correct the address" in done.output


def test_a_wrong_password_is_trouble(mosquitto: Callable[..., Mosquitto], tmp_path: Path) -> None:
    server = mosquitto("allow_anonymous false")
    done = examined(tmp_path, server.url)
    assert done.exit_code == 1
    assert "correct user, password or certificate" in done.output


def certificate(folder: Path, days: int) -> str:
    """A certificate that signs itself and holds for so many days from now on, with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "press")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=400))
        .not_valid_after(now + timedelta(days=days, hours=12))
        .sign(key, hashes.SHA256())
    )
    (folder / "press.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "press.key").write_bytes(text)
    (folder / "press.key").chmod(0o644)
    return f", tls: {{ca: {folder}/press.pem, cert: {folder}/press.pem, key: {folder}/press.key}}"


@pytest.mark.parametrize(("days", "level", "exit_code"), [(-3, "trouble", 1), (10, "warning", 0), (300, "ok", 0)])
def test_days_left_of_a_certificate(tmp_path: Path, days: int, level: str, exit_code: int) -> None:
    done = examined(tmp_path, f"mqtts://127.0.0.1:{free_port()}", certificate(tmp_path, days))
    assert done.exit_code == exit_code, done.output
    (line,) = {line for line in done.output.splitlines() if "press.pem h" in line}
    assert line.startswith(level)
    assert f"{abs(days)} days" in line
    assert "can be read by others" in done.output
    assert f"chmod 600 {tmp_path}/press.key" in done.output
    assert ("make a new one: `tocsin certs`" in done.output) == (days < 300)
    made = tmp_path / "made"
    assert CliRunner().invoke(main, ["certs", str(made), "press"]).exit_code == 0
    for name in ("press.pem", "press.key"):
        shutil.copy(made / name, tmp_path / name)
    (tmp_path / "press.key").chmod(0o600)
    again = CliRunner().invoke(main, ["doctor", str(tmp_path / "press.yaml")])
    assert "press.pem h" in again.output
    assert "chmod 600" not in again.output
    assert "make a new one" not in again.output


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    done = CliRunner().invoke(main, ["doctor", "--folder", str(tmp_path / "data")])
    assert done.exit_code == 1
    assert "is a file" in done.output


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    done = CliRunner().invoke(main, ["doctor", "--folder", str(tmp_path / "data")])
    assert done.exit_code == 1
    assert "chown" in done.output


@pytest.mark.parametrize(("free", "level"), [(2**40, "ok"), (2**30, "warning"), (2**20, "trouble")])
def test_a_disk_that_fills_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, level: str) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    (said,) = (one for one in examine(None, tmp_path) if one.what == "disk")
    assert said.level == level
    assert bool(said.remedy) == (level != "ok")


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="there is no tmpfs here")
def test_a_folder_in_memory_is_trouble() -> None:
    (said,) = (one for one in examine(None, Path("/dev/shm/none")) if one.what == "file system")
    assert said.level == "trouble"
