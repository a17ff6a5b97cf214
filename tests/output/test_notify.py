"""Channel `notify`: what it says, to whom, and whom it refuses to talk to."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner

from tocsin.batch import as_times
from tocsin.cli import main
from tocsin.contracts import Message
from tocsin.errors import ConfigError, DeliveryError
from tocsin.output._round import AT_ONCE, FAILURES_MAX
from tocsin.output.notify import REFUSALS_MAX, Notify, public
from tocsin.testing import world


def rows(**columns: list[object]) -> pa.RecordBatch:
    first = next(iter(columns.values()))
    return pa.record_batch({"key": ["pump"] * len(first), "time": as_times([1_000_000] * len(first)), **columns})


def texts(channel: Notify, batch: pa.RecordBatch) -> list[str]:
    return [json.loads(message.body)["text"] for message in channel.messages(batch)]


class Receiver:
    """A web server that keeps what it gets, and answers as it is told."""

    def __init__(self, server: type[HTTPServer] = HTTPServer) -> None:
        self.wait: Callable[[], object] = lambda: None
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        self.answers: list[int] = []
        self.unwanted: set[str] = set()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.wait()
                receiver.got.append((self.path, dict(self.headers), body))
                usual = 422 if self.headers["Idempotency-Key"] in receiver.unwanted else 200
                self.send_response(receiver.answers.pop(0) if receiver.answers else usual)
                self.send_header("Location", "http://127.0.0.1:1/")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hook?token=s3cret"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    found = Receiver()
    yield found
    found.server.shutdown()
    found.server.server_close()
    found.thread.join()


def test_what_is_said() -> None:
    batch = rows(message=["too hot"], value=[81.26], more=[None])
    assert texts(Notify(), batch) == ["pump too hot"]
    assert texts(Notify(text="{key}! {value:.1f} {more} {nothing}"), batch) == ["pump! 81.3  {nothing}"]
    assert texts(Notify(text="{key.__class__} {value:q}"), batch) == ["{key.__class__} 81.26"]
    assert texts(Notify(), rows(value=[1.5])) == ["key=pump time=1970-01-01T00:00:01+00:00 value=1.5"]


def test_a_device_cannot_forge_a_line_or_move_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    batch = rows(message=["\x1b[2Jok\r\nCRITICAL [red]x[/red] \u202egnp"])
    messages = Notify().messages(batch)
    Notify().open(world()).deliver(messages)
    written = capsys.readouterr().err
    assert written.count("\n") == 1
    assert "\x1b" not in written
    assert r"\x1b[2Jok\r\nCRITICAL [red]x[/red] \u202egnp" in written


def test_ids_name_what_is_said_once_and_for_all() -> None:
    batch = rows(message=["a", "b"], value=[float("nan"), None], blob=[b"\xff", b""])
    first, second = (m.id for m in Notify().messages(batch))
    assert first != second
    assert [m.id for m in Notify().messages(batch.slice(1))] == [second]


def test_a_webhook_gets_the_row_and_its_id(receiver: Receiver) -> None:
    channel = Notify(to=receiver.url, allow_private=True)
    messages = channel.messages(rows(message=["too hot"], value=[81.25]))
    delivery = channel.open(world())
    delivery.deliver(messages)
    delivery.close()
    ((path, headers, body),) = receiver.got
    assert path == "/hook?token=s3cret"
    assert headers["Idempotency-Key"] == messages[0].id
    assert headers["Host"] == f"127.0.0.1:{receiver.server.server_port}"
    assert json.loads(body)["row"]["value"] == 81.25


@pytest.mark.parametrize(("form", "kind"), [("cloudevents", "cloudevents+json"), ("alertmanager", "json")])
def test_a_webhook_gets_the_form_it_asks_for(receiver: Receiver, form: str, kind: str) -> None:
    channel = Notify.model_validate({"to": receiver.url, "allow_private": True, "format": form})
    messages = channel.messages(rows(message=["too hot"], event=["raised"], id=["a1"], rule=["hot"]))
    delivery = channel.open(world())
    delivery.deliver(messages)
    delivery.close()
    ((_, headers, body),) = receiver.got
    assert headers["Content-Type"] == f"application/{kind}"
    found = json.loads(body)
    if form == "cloudevents":
        assert (found["type"], found["subject"]) == ("io.tocsin.alarm.raised.v1", "pump")
    else:
        assert found[0]["labels"] == {"alertname": "hot", "key": "pump", "id": "a1"}


def test_what_failed_is_sent_again_and_what_arrived_is_not(
    receiver: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    channel = Notify(to=("console", receiver.url), allow_private=True)
    messages = channel.messages(rows(message=["one", "two"]))
    delivery = channel.open(world())
    receiver.answers = [500, 302]
    for status in (500, 302):
        with pytest.raises(DeliveryError, match=f"answered {status}") as caught:
            delivery.deliver(messages)
        assert "s3cret" not in str(caught.value)
    delivery.deliver(messages)
    delivery.close()
    assert [json.loads(body)["text"] for _, _, body in receiver.got] == ["pump one"] * 3 + ["pump two"]
    assert capsys.readouterr().err.count("pump") == 2


def test_what_is_refused_for_good_does_not_hold_up_the_rest(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    channel = Notify(to=receiver.url, allow_private=True)
    messages = channel.messages(rows(message=["one", "two", "three"]))
    delivery = channel.open(world())
    receiver.answers = [429] * REFUSALS_MAX + [422] * (REFUSALS_MAX + 1)
    for _ in range(2 * REFUSALS_MAX - 1):
        with pytest.raises(DeliveryError):
            delivery.deliver(messages)
    delivery.deliver(messages)
    said = [json.loads(body)["text"] for _, _, body in receiver.got]
    assert said == ["pump one"] * 2 * REFUSALS_MAX + ["pump two", "pump three"]
    assert delivery.counters() == {"refused": 2}
    assert caplog.text.count("is dropped") == 2
    assert messages[0].id in caplog.text
    assert "s3cret" not in caplog.text
    receiver.answers = [422]
    (again,) = channel.messages(rows(message=["four"]))
    with pytest.raises(DeliveryError, match="answered 422"):
        delivery.deliver([again])
    delivery.deliver([again])
    delivery.close()
    assert delivery.counters() == {"refused": 2}


def alarms(count: int, machines: int) -> list[Message]:
    """Messages of some machines in turn, numbered."""
    return list(
        Notify().messages(
            pa.record_batch(
                {
                    "key": [f"pump {i % machines}" for i in range(count)],
                    "time": as_times([1_000_000 * i for i in range(count)]),
                    "rule": ["hot"] * count,
                    "number": list(range(count)),
                }
            )
        )
    )


def numbers(receiver: Receiver) -> list[int]:
    return [json.loads(body)["row"]["number"] for _, _, body in receiver.got]


def test_a_few_messages_are_on_their_way_at_a_time_and_no_more() -> None:
    receiver = Receiver(ThreadingHTTPServer)
    meeting = threading.Barrier(AT_ONCE, timeout=10)  # breaks unless so many come at the same time
    inside, most, lock = 0, 0, threading.Lock()

    def wait() -> None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        meeting.wait()
        with lock:
            inside -= 1

    receiver.wait = wait
    delivery = Notify(to=receiver.url, allow_private=True).open(world())
    delivery.deliver(alarms(4 * AT_ONCE, 4 * AT_ONCE))
    delivery.close()
    receiver.server.shutdown()
    receiver.server.server_close()
    assert (len(receiver.got), most) == (4 * AT_ONCE, AT_ONCE)


def test_one_that_fails_holds_up_its_own_alarm_only(receiver: Receiver) -> None:
    messages = alarms(12, 3)
    delivery = Notify(to=receiver.url, allow_private=True).open(world())
    receiver.answers = [503]
    with pytest.raises(DeliveryError, match="answered 503") as caught:
        delivery.deliver(messages)
    first = receiver.got[0][2]
    held = json.loads(first)["row"]["number"]
    assert set(caught.value.delivered) == {m.id for i, m in enumerate(messages) if i % 3 != held}
    delivery.deliver(messages)
    delivery.close()
    came = numbers(receiver)[1:]
    assert sorted(came) == list(range(12))
    for machine in range(3):
        assert [n for n in came if n % 3 == machine] == list(range(machine, 12, 3))


def test_a_target_that_takes_nothing_is_left_alone_until_the_next_round(receiver: Receiver) -> None:
    delivery = Notify(to=receiver.url, allow_private=True).open(world())
    receiver.answers = [503] * 1_000
    with pytest.raises(DeliveryError, match="answered 503"):
        delivery.deliver(alarms(100, 100))
    assert FAILURES_MAX <= len(receiver.got) < FAILURES_MAX + AT_ONCE
    delivery.close()


def test_a_message_that_alone_is_refused_is_dropped_in_the_end(receiver: Receiver) -> None:
    messages = alarms(3 * REFUSALS_MAX, 3)
    delivery = Notify(to=receiver.url, allow_private=True).open(world())
    receiver.unwanted = {messages[0].id}
    for i in range(REFUSALS_MAX - 1):
        with pytest.raises(DeliveryError, match="answered 422") as caught:
            delivery.deliver([messages[0], messages[3 * i + 1]])
        assert caught.value.delivered == [messages[3 * i + 1].id]
    delivery.deliver([messages[0], messages[-1]])
    assert delivery.counters() == {"refused": 1}
    delivery.close()


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/", "http://localhost/", "http://[::1]/", "http://169.254.169.254/latest/meta-data/",
        "http://10.1.2.3/", "http://192.168.0.1/", "http://0.0.0.0/", "http://2130706433/", "http://0x7f.1/",
        "http://[::ffff:127.0.0.1]/", "http://user:pw@127.0.0.1/", "http://[fe80::1]/", "http://[fd00::1]/",
    ],
)  # fmt: skip
def test_private_addresses_are_refused(url: str) -> None:
    delivery = Notify(to=url, timeout_s=2).open(world())
    with pytest.raises(DeliveryError, match=r"private address|not known"):
        delivery.deliver([Message("x", b'{"text": "x", "row": {}}')])
    delivery.close()


def test_a_name_is_judged_by_what_it_resolves_to_and_then_kept(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def resolve(host: str, port: int, *_: object, **__: object) -> list[tuple[object, ...]]:
        asked.append(host)
        return [(2, 1, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr("socket.getaddrinfo", resolve)
    url = receiver.url.replace("127.0.0.1", "hooks.example.com")
    delivery = Notify(to=url).open(world())
    with pytest.raises(DeliveryError, match=r"hooks\.example\.com is a private address; set allow_private"):
        delivery.deliver([Message("x", b"{}")])
    delivery.close()
    assert receiver.got == []
    delivery = Notify(to=url, allow_private=True).open(world())
    delivery.deliver([Message("x", b"{}")])
    delivery.close()
    assert len(receiver.got) == 1
    assert not public("100.64.0.1")
    assert public("2606:4700::1111")


# Apprise imports a module that Python 3.13 no longer has, and has its own for it.
@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")
def test_unknown_targets_stay_in_the_outbox(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    delivery = Notify(to="nosuch://user:secret@host").open(world())
    with pytest.raises(DeliveryError, match="no target that is known") as caught:
        delivery.deliver([Message("x", b'{"text": "x", "row": {}}')])
    with pytest.raises(ConfigError):
        Notify(to="nosuch://user:secret@host").check(world())
    shown = CliRunner().invoke(main, re.search(r"`tocsin (.+)`", str(caught.value))[1].split())  # type: ignore[index]
    assert shown.exit_code == 0
    assert "mailto://" in shown.output
    Notify(to="mailto://user:secret@example.com").check(world())
    assert "secret" not in str(caught.value) + caplog.text + "".join(capfd.readouterr())


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")
def test_apprise_takes_the_rest(receiver: Receiver) -> None:
    target = receiver.url.replace("http://", "json://")
    with pytest.raises(ConfigError, match="is a webhook"):
        Notify(to=target).check(world())
    delivery = Notify(to=target, allow_private=True).open(world())
    delivery.deliver([Message("x", b'{"text": "pump too hot", "row": {}}')])
    assert json.loads(receiver.got[0][2])["message"] == "pump too hot"


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")
@pytest.mark.parametrize("target", ["sclack://a/b/c", "consle", "mailto://"])
def test_what_cannot_be_a_target_is_told_before_a_start(target: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="notify cannot send to"):
        Notify(to=("console", target)).check(world(tmp_path))


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")
def test_what_can_be_a_target_passes(tmp_path: Path) -> None:
    Notify(to=("console", "https://example.com/hook", "mailto://user:secret@example.com")).check(world(tmp_path))


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")
def test_a_secret_in_a_wrong_target_is_not_shown(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        Notify(to="sclack://host/secret").check(world(tmp_path))
    assert "secret" not in str(error.value)
