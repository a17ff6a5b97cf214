"""Channel `notify`: tell people, or their programs."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import logging
import re
import socket
import threading
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

import pyarrow as pa

from tocsin.contracts import Channel, Message
from tocsin.domain.alarms import SEVERITIES
from tocsin.errors import ConfigError, DeliveryError, SchemaError
from tocsin.output._cloudevents import alertmanager, cloudevent
from tocsin.output._round import AT_ONCE, Away, Round
from tocsin.settings import Many
from tocsin.values.text import printable
from tocsin.world import World

log = logging.getLogger(__name__)

_WEBHOOKS = ("http://", "https://")
_PLACE = re.compile(r"\{(\w+)(?::([^{}]*))?\}")
_REMEMBERED_MAX = 10_000
REFUSALS_MAX = 10
"""So often may a webhook refuse a message; then it is dropped. Where it takes nothing else, all it refuses is."""
_WAIT = (408, 425, 429)
"""Refusals (4xx) that only mean: not now."""
# Apprise's own ways to post to any address do not look where it leads.
_APPRISE_WEBHOOKS = {"json", "jsons", "xml", "xmls", "form", "forms", "apprise", "apprises"}
_STYLES = {severity.name: severity.style for severity in SEVERITIES}


class Notify(Channel):
    """Tell people of each row: on the console, by webhook, or by e-mail, chat and the hundred services of Apprise.

    Use it behind an alarm, and keep only the rows that are to ring (``keep: ring``): each row is a message. It waits in
    the outbox from the commit point on and is sent again until its target takes it; a webhook gets the row as JSON
    with the id in the header ``Idempotency-Key``, by which it can tell a repetition. Up to four are on their way to a
    target at a time; those of one alarm keep their order, and one that fails does not hold up other alarms. What a
    webhook goes on refusing (4xx, ten times) is dropped, counted and logged. For other machines use `mqtt`.

    Webhooks may only lead to public addresses unless ``allow_private`` is set, whatever their name resolves to, and
    redirects are not followed: else whoever may edit a pipeline could make this computer ask its neighbours.

    Examples
    --------
    >>> rows = pa.record_batch({"key": ["pump"], "message": ["too hot"], "value": [81.25]})
    >>> channel = Notify(to="console", text="{key}: {message} ({value:.1f})")
    >>> json.loads(channel.messages(rows)[0].body)["text"]
    'pump: too hot (81.2)'
    """

    SHORTHAND: ClassVar[str | None] = "to"
    URGENT: ClassVar[bool] = True

    to: Many[str] = ("console",)
    """Where to: ``console``, the URL of a webhook, or any URL of Apprise (``mailto://``, ``slack://``, ``mqtt://``)."""
    text: str = ""
    """What to say, with columns in braces (``{key}: {value:.1f}``); key and message, or else all columns, if empty.
    Where the pipeline has ``assets``, there are also ``area``, ``line``, ``name``, ``signal_name`` and ``unit``; where
    it says ``page.url``, ``link`` opens the alarm's story on the page, and stands behind key and message."""
    format: Literal["text", "cloudevents", "alertmanager"] = "text"
    """What a webhook gets: text and row as JSON, a CloudEvent 1.0, or what Alertmanager's ``/api/v2/alerts`` takes."""
    allow_private: bool = False
    """Whether webhooks may lead to private and local addresses."""
    timeout_s: float = 10.0
    """How long a target may take to answer."""

    def messages(self, rows: pa.RecordBatch) -> Sequence[Message]:
        messages = []
        # Alarms are few: a loop over rows costs some 10 µs each.
        for row in rows.to_pylist():
            plain = {name: _plain(value) for name, value in row.items()}
            digest = hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:32]
            body = {"id": digest, "text": printable(self._text(row)), "row": plain}
            if self.format != "text":
                body["payload"] = (cloudevent if self.format == "cloudevents" else alertmanager)(row).decode()
            messages.append(Message(digest, json.dumps(body).encode()))
        return messages

    def accepts(self, schema: pa.Schema) -> None:
        for name in (place[1] for place in _PLACE.finditer(self.text)):
            if name not in schema.names:
                raise SchemaError(
                    f"the text of notify names column '{name}'; what reaches it is [{', '.join(schema.names)}]"
                )

    def check(self, world: World) -> None:
        for number, target in enumerate(self.to, 1):
            if target.partition("://")[0].lower() in _APPRISE_WEBHOOKS and not self.allow_private:
                raise ConfigError(f"{_named(target)} is a webhook; write it as https://, or set allow_private")
            if target != "console" and not _can_be_sent_to(target):
                # Hardly any of it is shown: tokens stand in every part of what Apprise takes.
                scheme, separator, _ = target.partition("://")
                word = f"'{target}'" if target.isalpha() and len(target) < 16 else f"target {number}"
                which = f"'{scheme}://...'" if separator else word
                raise ConfigError(
                    f"notify cannot send to {which}: write console, https:// and the address of a webhook, or a "
                    "whole URL of Apprise (mailto://, slack:// ...)"
                )

    def _text(self, row: Mapping[str, Any]) -> str:
        if self.text:
            return _PLACE.sub(lambda place: _shown(row, place), self.text)
        if row.get("message"):
            return " ".join(filter(None, (_whose(row), row["message"], row.get("link"))))
        return " ".join(f"{name}={_plain(value)}" for name, value in row.items() if value is not None)

    def open(self, world: World) -> Notifier:
        return Notifier(self)


class MessageRefused(DeliveryError):
    """A target does not want this message."""


class Notifier:
    """The open channel. Each target gets each message; one that fails does not keep it from the others."""

    def __init__(self, settings: Notify) -> None:
        self._settings = settings
        self._done: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._refusals: Counter[tuple[str, str]] = Counter()
        """How often a target has refused a message."""
        self._in_vain: Counter[str] = Counter()
        """By target: for how many rounds it has refused something, and taken nothing."""
        self._pools: dict[str, ThreadPoolExecutor] = {}
        self.refused = 0
        """How many messages were dropped."""
        self._client: Any = None
        self._lock = threading.Lock()

    def deliver(self, messages: Sequence[Message]) -> None:
        failures: list[DeliveryError] = []
        for target in self._settings.to:
            waiting = [message for message in messages if (target, message.id) not in self._done]
            if waiting:
                failures += self._round(target, waiting)[:1]
        delivered = [m.id for m in messages if all((target, m.id) in self._done for target in self._settings.to)]
        while len(self._done) > _REMEMBERED_MAX:
            self._done.popitem(last=False)
        if failures:
            raise DeliveryError("; ".join(map(str, failures)), delivered)

    def _round(self, target: str, messages: Sequence[Message]) -> Sequence[DeliveryError]:
        """Try each message once; returns why some are left."""
        if target not in self._pools:
            # Who reads along wants the order in which things happened.
            self._pools[target] = ThreadPoolExecutor(1 if target == "console" else AT_ONCE, f"notify {_named(target)}")
        refused: list[str] = []
        round = Round()
        round.run(self._pools[target], messages, lambda message: self._try(target, message, refused))
        for id in round.taken:
            self._done[target, id] = None
        if len(round.taken) > len(refused):
            self._in_vain[target] = 0
        elif refused or any(isinstance(error, MessageRefused) for error in round.failures):
            self._in_vain[target] += 1
        return round.failures

    def _try(self, target: str, message: Message, refused: list[str]) -> None:
        """Send a message; one that is refused too often is dropped, and noted in ``refused``."""
        try:
            self._send(target, message)
        except MessageRefused as error:
            with self._lock:
                self._refusals[target, message.id] += 1
                often = max(self._refusals[target, message.id], self._in_vain[target] + 1)
                if often < REFUSALS_MAX:
                    raise
                self.refused += 1
                refused.append(message.id)
                log.error("%s: message %s is dropped (%d so far)", error, message.id, self.refused)
        with self._lock:
            self._refusals.pop((target, message.id), None)

    def counters(self) -> Mapping[str, int]:
        """Returns counters, by name."""
        return {"refused": self.refused}

    def close(self) -> None:
        for pool in self._pools.values():
            pool.shutdown()
        if self._client is not None:
            self._client.close()

    def _send(self, target: str, message: Message) -> None:
        if target == "console":
            _print(json.loads(message.body))
        elif target.startswith(_WEBHOOKS):
            self._post(target, message)
        else:
            self._apprise(target, json.loads(message.body))

    def _post(self, url: str, message: Message) -> None:
        import httpx

        with self._lock:
            if self._client is None:
                # No proxy from the environment: it would resolve the name again, and elsewhere.
                self._client = httpx.Client(timeout=self._settings.timeout_s, follow_redirects=False, trust_env=False)
        parts = httpx.URL(url)
        address = self._address(parts.host, parts.port or (443 if parts.scheme == "https" else 80))
        payload = json.loads(message.body).get("payload")
        kind = "application/cloudevents+json" if self._settings.format == "cloudevents" else "application/json"
        headers = {"Host": parts.netloc.decode(), "Content-Type": kind, "Idempotency-Key": message.id}
        try:
            # The connection goes to the address that was looked at, so that the name cannot change its mind.
            answer = self._client.post(
                parts.copy_with(host=address), content=payload or message.body, headers=headers,
                extensions={"sni_hostname": parts.host},
            )  # fmt: skip
        except httpx.HTTPError as error:
            raise Away(f"webhook {_named(url)}: {str(error) or type(error).__name__}") from error
        if not answer.is_success:
            for_good = answer.is_client_error and answer.status_code not in _WAIT
            raise (MessageRefused if for_good else DeliveryError)(
                f"webhook {_named(url)} answered {answer.status_code}"
            )

    def _address(self, host: str, port: int) -> str:
        try:
            addresses = [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
        except OSError as error:
            raise Away(f"webhook host {host} is not known: {error}") from error
        if not self._settings.allow_private and not all(public(address) for address in addresses):
            raise Away(f"webhook host {host} is a private address; set allow_private if that is meant")
        return addresses[0]

    def _apprise(self, target: str, body: Mapping[str, Any]) -> None:
        sender = _apprise().Apprise()
        if not sender.add(target):
            raise DeliveryError(f"'{_named(target)}' is no target that is known; see `tocsin components notify`")
        if not sender.notify(title="tocsin", body=body["text"]):
            raise DeliveryError(f"{_named(target)} did not take the message")


def public(address: str) -> bool:
    """Returns whether an address is one of the internet's, and not of this computer, its network or its cloud.

    Examples
    --------
    >>> [public(a) for a in ("93.184.215.14", "169.254.169.254", "::1", "::ffff:10.0.0.1", "64:ff9b::7f00:1")]
    [True, False, False, False, False]
    """
    number: Any = ipaddress.ip_address(address.partition("%")[0])
    if number.version == 6:
        if number in ipaddress.ip_network("64:ff9b::/96"):  # IPv4 by NAT64
            number = ipaddress.ip_address(int(number) & 0xFFFFFFFF)
        number = getattr(number, "ipv4_mapped", None) or getattr(number, "sixtofour", None) or number
    return bool(number.is_global and not number.is_multicast)


def _whose(row: Mapping[str, Any]) -> str:
    """Returns the machine as people know it, where the pipeline says so (`assets`), else the key."""
    if not row.get("name") or "area" not in row:
        return str(row.get("key", ""))
    where = ", ".join(row[part] for part in ("area", "line") if row.get(part))
    return f"{row['name']} ({where}):" if where else f"{row['name']}:"


def _shown(row: Mapping[str, Any], place: re.Match[str]) -> str:
    name, form = place[1], place[2]
    if name not in row:
        return place[0]
    value = row[name]
    if value is None:
        return ""
    try:
        return format(value, form) if form else str(_plain(value))
    except (ValueError, TypeError):
        return str(value)


def _plain(value: Any) -> Any:
    """Returns a value as JSON has it."""
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, float) and not (abs(value) < float("inf")):
        return str(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def _can_be_sent_to(target: str) -> bool:
    if target.startswith(_WEBHOOKS):
        try:
            parts = urlsplit(target)
            return bool(parts.hostname) and parts.port != 0
        except ValueError:
            return False
    return "://" in target and _apprise().Apprise.instantiate(target) is not None


def _apprise() -> Any:
    """Returns the library, which is not heard: what it logs of an address holds its passwords."""
    import apprise

    logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)
    return apprise


def _named(target: str) -> str:
    """Returns a target without its secrets: for a webhook in path, query and user, else anywhere behind the scheme."""
    if target.startswith(_WEBHOOKS):
        return f"{urlsplit(target).scheme}://{urlsplit(target).hostname}"
    return target.partition("://")[0] + "://..."


def _print(body: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.text import Text

    row = body["row"]
    line = Text(f"{str(row.get('time', ''))[:19].replace('T', ' ')} ", style="dim")
    line.append(body["text"], style=_STYLES.get(str(row.get("severity", "")), "bold"))
    Console(stderr=True).print(line, soft_wrap=True)
