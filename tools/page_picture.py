"""Make the picture of the page anew: python tools/page_picture.py [docs/page.png]

It runs `tocsin demo` in a folder of its own until an alarm is active, and takes the page as Chromium draws it: desktop,
light, in UTC, with the overview and the charts of the machine that alarms. Needs playwright and chromium.
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

PICTURE = Path(__file__).parent.parent / "docs" / "page.png"
SIZE = {"width": 1480, "height": 900}
WAIT_MS = 300_000
MOVES_MS = 20_000
"""So long after the alarm began: its chart shows what came of it."""


def main(picture: Path) -> None:
    """Take the picture."""
    from playwright.sync_api import sync_playwright

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as started:
        command = [sys.executable, "-m", "tocsin.cli", "demo", "--folder", folder, "--port", str(port)]
        demo = subprocess.Popen(command)
        try:
            arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
            browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
            until_served(f"http://127.0.0.1:{port}/healthz")
            view = browser.new_page(viewport=SIZE, color_scheme="light", locale="en-GB", timezone_id="UTC")
            view.goto(f"http://127.0.0.1:{port}")
            take(view, picture)
            browser.close()
        finally:
            demo.send_signal(signal.SIGINT)
            demo.wait(60)
    print(f"{picture}: {picture.stat().st_size} bytes")


def until_served(url: str) -> None:
    """Wait until the page answers."""
    ends = time.monotonic() + WAIT_MS / 1000
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            if time.monotonic() > ends:
                raise
            time.sleep(0.2)


def take(view: Any, picture: Path) -> None:
    """Wait for an alarm, go to its machine, and take the picture when its charts and the heat map are drawn."""
    view.wait_for_selector(".alarm[data-active=true]", timeout=WAIT_MS)
    view.wait_for_function(
        "() => document.querySelector('.tile[aria-selected=true]')?.dataset.status === 'alarm'", timeout=WAIT_MS
    )
    view.wait_for_selector("#lanes:not([hidden])", timeout=WAIT_MS)
    view.wait_for_selector(".card .plot .main-svg", timeout=WAIT_MS)
    view.wait_for_timeout(MOVES_MS)
    view.screenshot(path=str(picture))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE)
