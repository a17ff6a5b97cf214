"""`tocsin doctor`: what of this machine, and of what a pipeline file names, will make trouble; with a remedy each."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import psutil

import tocsin
from tocsin.acquire.mqtt import Mqtt
from tocsin.contracts import Channel
from tocsin.engine.recovery import Effects
from tocsin.errors import TocsinError
from tocsin.mqtt.client import NotConnected
from tocsin.pipeline.plan import Plan
from tocsin.settings.tls import Tls

Level = Literal["ok", "warning", "trouble"]

FREE_BYTES = {"warning": 2 * 2**30, "trouble": 200 * 2**20}
"""Less free space than this is told."""
FSYNC_MS = (0.02, 50.0)
"""A sync faster than the first reached no disk; one slower than the second holds up every checkpoint."""
SYNCS = 20
CERTIFICATE_DAYS = 30
ANSWER_S = 3.0
UNSYNCHRONISED = 5
"""What ntp_adjtime(3) returns for a clock that nobody keeps right: TIME_ERROR."""
PORTS = {"mqtt": 1883, "mqtts": 8883, "http": 80, "https": 443, "postgresql": 5432, "mongodb": 27017, "opc.tcp": 4840}
IN_MEMORY, REMOTE = ("tmpfs", "ramfs"), ("nfs", "nfs4", "cifs", "smbfs", "smb3", "9p", "fuse.sshfs")


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, what it is like, and what to do about it."""

    what: str
    said: str
    level: Level = "ok"
    remedy: str = ""


def examine(plan: Plan | None, folder: Path) -> Iterator[Finding]:
    """Yields what there is to say of this machine, of a data folder, and of a pipeline's ends; opens none of them."""
    yield Finding("version", f"tocsin {tocsin.__version__}, Python {platform.python_version()}, {platform.platform()}")
    yield from _clock()
    yield from _folder(folder)
    if plan is not None:
        yield from _ends(plan)


def _clock() -> Iterator[Finding]:
    try:
        asked = ctypes.create_string_buffer(1024)  # a struct timex of zeros changes nothing
        state = ctypes.CDLL(None).ntp_adjtime(asked)
    except (OSError, AttributeError):
        return
    now = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"
    if state == UNSYNCHRONISED:
        remedy = "start a time service (chronyd, systemd-timesyncd): alarms and the archive say when by this clock"
        yield Finding("clock", f"{now}, and nobody keeps it right", "warning", remedy)
    elif state >= 0:
        yield Finding("clock", f"{now}, kept right by the system")


# ------------------------------------------------------------------------------------------------------ the data folder


def _folder(folder: Path) -> Iterator[Finding]:
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        yield Finding("folder", f"{there} is a file", "trouble", "name a folder: --set folder=PATH")
        return
    if not os.access(there, os.W_OK | os.X_OK):
        yield Finding("folder", f"{there} cannot be written", "trouble", f"chown {_user()} {there}")
        return
    strange = next((path for path in folder.rglob("*") if not os.access(path, os.R_OK | os.W_OK)), None)
    if strange is not None:
        yield Finding("folder", f"{strange} cannot be written", "trouble", f"chown -R {_user()} {folder}")
        return
    yield Finding("folder", f"{folder.absolute()} can be written")
    yield _file_system(there)
    yield _space(there)
    yield _syncs(there)


def _user() -> str:
    try:
        return str(psutil.Process().username())
    except (psutil.Error, KeyError):
        return str(os.getuid())


def _file_system(folder: Path) -> Finding:
    mounts = {Path(mount.mountpoint): mount.fstype for mount in psutil.disk_partitions(all=True)}
    kind = next((mounts[path] for path in (folder, *folder.parents) if path in mounts), "unknown")
    if kind in IN_MEMORY:
        remedy = "put the folder on a disk: --set folder=PATH"
        return Finding("file system", f"{kind}, which is memory: all is lost with the power", "trouble", remedy)
    if kind in REMOTE:
        said = f"{kind}: another machine's, whose locks and syncs may not hold"
        return Finding("file system", said, "warning", "put the folder on a local disk; sinks may write elsewhere")
    return Finding("file system", kind)


def _space(folder: Path) -> Finding:
    usage = shutil.disk_usage(folder)
    said = f"{usage.free / 2**30:,.1f} GiB free of {usage.total / 2**30:,.0f}"
    level = next((level for level in ("trouble", "warning") if usage.free < FREE_BYTES[level]), "ok")
    remedy = "make room, or keep less: `tocsin retain`, and lag: for sinks that are away" if level != "ok" else ""
    return Finding("disk", said, level, remedy)  # type: ignore[arg-type]


def _syncs(folder: Path) -> Finding:
    spent_ms = []
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(SYNCS):
            file.write(bytes(4096))
            file.flush()
            begin_s = time.perf_counter()
            os.fsync(file.fileno())
            spent_ms.append(1e3 * (time.perf_counter() - begin_s))
    median_ms = statistics.median(spent_ms)
    said = f"a sync takes {median_ms:.2g} ms (the slowest of {SYNCS}: {max(spent_ms):.2g} ms)"
    if median_ms < FSYNC_MS[0]:
        remedy = "use a disk that keeps what it confirms: here a power cut may lose rows that were acknowledged"
        return Finding("sync", f"{said}: too fast for a disk", "warning", remedy)
    if median_ms > FSYNC_MS[1]:
        return Finding("sync", said, "warning", "take a faster disk, or checkpoints less often: checkpoint: 10s")
    return Finding("sync", said)


# ------------------------------------------------------------------------------------------------ what the file names


def _ends(plan: Plan) -> Iterator[Finding]:
    effects = Effects()
    ends: list[tuple[str, str, Any]] = [(origin.id, "ingest", origin.source) for origin in plan.sources]
    ends += [(end.id, "channels" if isinstance(end.part, Channel) else "staged", end.part) for end in plan.sinks]
    for id, kind, part in ends:
        world = effects.world(plan, kind, id)
        try:
            part.check(world)
        except TocsinError as error:
            yield Finding(id, str(error), "trouble", "correct it in the file")
            continue
        if isinstance(tls := getattr(part, "tls", None), Tls):
            yield from _certificates(id, tls, world.given)
        addresses = list(_addresses(part))
        away = [reason for host, port in addresses if (reason := _unreachable(host, port))]
        for reason in away:
            yield Finding(id, reason, "warning", "start it, or correct the address; rows wait until it is there")
        if addresses and not away:
            yield Finding(id, "answers at " + ", ".join(f"{host}:{port}" for host, port in addresses))
            if isinstance(part, Mqtt):
                yield _session(id, part, world.given)


def _addresses(part: Any) -> Iterator[tuple[str, int]]:
    """Yields host and port of the servers that an end speaks to."""
    for url in (getattr(part, "url", None), getattr(part, "endpoint", None)):
        if isinstance(url, str) and (parts := urlsplit(url)).hostname is not None:
            port = parts.port or PORTS.get(parts.scheme)
            if port is not None:
                yield parts.hostname, port
    brokers = getattr(part, "brokers", None)
    for broker in brokers.split(",") if isinstance(brokers, str) else brokers or ():
        host, _, number = broker.strip().rpartition(":")
        yield (host, int(number)) if host else (broker.strip(), 9092)


def _unreachable(host: str, port: int) -> str:
    """Returns why nobody answers there; empty where somebody does."""
    try:
        socket.create_connection((host, port), ANSWER_S).close()
    except OSError as error:
        return f"{host}:{port} does not answer ({error.strerror or error})"
    return ""


def _session(id: str, part: Mqtt, given: Path) -> Finding:
    """Whether the broker keeps a session, without which messages are lost while we are away; under another name."""

    def connected(clean: bool) -> bool:
        client = part.client(given, clean=clean, session_expiry_s=0 if clean else 60, timeout_s=ANSWER_S)
        client.client_id = f"tocsin-doctor-{os.getpid()}"
        with closing(client):
            client.connect()
            return client.session_present

    try:
        connected(clean=False)
        kept = connected(clean=False)
        connected(clean=True)  # which ends it
    except NotConnected as error:
        return Finding(id, str(error), "trouble", "correct user, password or certificate")
    if not kept:
        remedy = "let the broker keep sessions (Mosquitto: remove persistent_client_expiration or make it longer)"
        return Finding(id, "the broker keeps no session: what is sent while tocsin is away is lost", "trouble", remedy)
    own = "that they outlast its restart, and how much each holds, it does not tell"
    return Finding(id, f"the broker keeps sessions; {own} (Mosquitto: persistence true, max_queued_messages)")


def _certificates(id: str, tls: Tls, given: Path) -> Iterator[Finding]:
    try:
        from cryptography import x509
    except ImportError:
        remedy = "pip install 'tocsin[certs]'"
        yield Finding(id, "how long its certificates hold cannot be told", "warning", remedy)
        return
    for name in (tls.ca, tls.cert):
        if name is None:
            continue
        for certificate in x509.load_pem_x509_certificates((given / name).read_bytes()):
            days = (certificate.not_valid_after_utc - datetime.now(UTC)).days
            level: Level = "trouble" if days < 0 else "warning" if days < CERTIFICATE_DAYS else "ok"
            said = f"{name} has expired {-days} days ago" if days < 0 else f"{name} holds for {days} days"
            yield Finding(id, said, level, "" if level == "ok" else "make a new one: `tocsin certs`")
    if tls.key is not None:
        with suppress(OSError):
            if (given / tls.key).stat().st_mode & 0o077:
                yield Finding(id, f"{tls.key} can be read by others", "warning", f"chmod 600 {tls.key}")


def report(plan: Plan | None, folder: Path) -> bool:
    """Print what was found, line by line; returns whether nothing makes trouble."""
    worst = True
    for one in examine(plan, folder):
        print(f"{one.level:8} {one.what}: {one.said}")
        if one.remedy:
            print(f"         -> {one.remedy}")
        worst &= one.level != "trouble"
        sys.stdout.flush()
    return worst
