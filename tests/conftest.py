"""What every test shares: binaries that may be missing, a real Mosquitto, certificates."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("tocsin", deadline=None)  # the first example may compile a kernel
settings.load_profile("tocsin")

Needs = Callable[[str], str]


@pytest.fixture(scope="session")
def needs() -> Needs:
    """``needs("mosquitto")``: where the program is; without it the test is skipped, but fails where CI=true."""

    def find(binary: str) -> str:
        path = shutil.which(binary, path=os.environ["PATH"] + ":/usr/sbin:/usr/local/sbin")
        if path is not None:
            return path
        if os.environ.get("CI") == "true":
            pytest.fail(f"{binary} is not installed, and in CI that is a failure")
        pytest.skip(f"{binary} is not installed")

    return find


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Mosquitto:
    """A real broker in a folder of its own; its sessions outlive `stop` and `start`."""

    binary: str
    folder: Path
    lines: str = "allow_anonymous true"
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"mqtt{'s' if 'certfile' in self.lines else ''}://127.0.0.1:{self.port}"

    def start(self) -> Mosquitto:
        config = self.folder / "mosquitto.conf"
        config.write_text(
            f"listener {self.port} 127.0.0.1\n{self.lines}\npersistence true\npersistence_location {self.folder}/\n"
            "max_queued_messages 100000\nmax_inflight_messages 1000\n"
            + (f"user {os.environ.get('USER', 'root')}\n" if os.getuid() == 0 else "")
        )
        self.process = subprocess.Popen(
            [self.binary, "-c", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 10
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            assert self.process.poll() is None, "mosquitto ended at once: its settings are wrong"
            assert time.monotonic() < deadline, "mosquitto does not listen"
            time.sleep(0.02)

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(10)
            self.process = None


@pytest.fixture
def mosquitto(needs: Needs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Mosquitto]]:
    """``mosquitto()`` or ``mosquitto("password_file ...")`` starts one on a free port; it ends with the test."""
    started: list[Mosquitto] = []

    def start(lines: str = "allow_anonymous true") -> Mosquitto:
        broker = Mosquitto(needs("mosquitto"), tmp_path_factory.mktemp("mosquitto"), lines)
        started.append(broker)
        return broker.start()

    yield start
    for broker in started:
        broker.stop()


@pytest.fixture(scope="session")
def certificates(needs: Needs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that ``examples/certificates.sh`` makes, for devices pump-1, pump-2 and tocsin; in ``other``, a second
    CA with a device of the same name."""
    needs("openssl")
    script = Path(__file__).parent.parent / "examples" / "certificates.sh"
    folder = tmp_path_factory.mktemp("certificates")
    for place, devices in ((folder, ["pump-1", "pump-2", "tocsin"]), (folder / "other", ["pump-1"])):
        subprocess.run(["sh", str(script), str(place), "127.0.0.1", *devices], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def browser(needs: Needs) -> Iterator[object]:
    """A real, headless Chromium."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        found = started.chromium.launch(
            executable_path=needs("chromium"), args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        yield found
        found.close()
