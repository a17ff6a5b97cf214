"""Every channel through every check of its kit, over the real server where it has one; and what is broken is found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

import pyarrow as pa
import pytest
from channels import MqttHarness, NotifyHarness, TemplateHarness
from pydantic import Field
from servers import Mosquitto

from tocsin.contracts import Channel, Message
from tocsin.errors import SchemaError
from tocsin.pipeline.registry import find, names
from tocsin.testing import channel_checks
from tocsin.testing.channel_checks import CHANNEL_CHECKS
from tocsin.world import World


def test_every_channel_has_a_harness() -> None:
    assert {name for name in names("sink") if issubclass(find("sink", name), Channel)} == {"mqtt", "notify"}


@pytest.fixture
def mqtt(mosquitto: Callable[..., Mosquitto]) -> Iterator[MqttHarness]:
    harness = MqttHarness(mosquitto().url)
    yield harness
    harness.close()


@pytest.fixture
def notify() -> Iterator[NotifyHarness]:
    harness = NotifyHarness()
    yield harness
    harness.close()


@pytest.mark.parametrize("check", CHANNEL_CHECKS, ids=lambda check: check.__name__)
def test_mqtt(mqtt: MqttHarness, check: Any) -> None:
    check(mqtt)


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")  # apprise's matter
@pytest.mark.parametrize("check", CHANNEL_CHECKS, ids=lambda check: check.__name__)
def test_notify(notify: NotifyHarness, check: Any) -> None:
    check(notify)


@pytest.mark.parametrize("check", CHANNEL_CHECKS, ids=lambda check: check.__name__)
def test_template(check: Any) -> None:
    with closing(TemplateHarness()) as harness:
        check(harness)


FLAW = {"is": ""}
TAKEN: list[str] = []


class Paper(Channel):
    """Writes to a list, sound unless `FLAW` says otherwise."""

    hidden: int = Field(0, exclude=True)

    def accepts(self, schema: pa.Schema) -> None:
        if "machine" not in schema.names and FLAW["is"] != "accepts":
            raise SchemaError("paper needs column 'machine'")

    def messages(self, rows: pa.RecordBatch) -> Sequence[Message]:
        texts = [str(row["text"]) for row in rows.to_pylist()]
        if FLAW["is"] == "impure":
            texts = [f"{text} {len(TAKEN)}" for text in texts]
            TAKEN.append("")
        if FLAW["is"] == "null":
            texts = [row["text"].strip() for row in rows.to_pylist()]
        ids = ["same" if FLAW["is"] == "ids" else text for text in texts]
        bodies: list[Any] = [text if FLAW["is"] == "body" else text.encode() for text in texts]
        extra = [Message("tick", b"tick")] if FLAW["is"] == "empty" else []
        return [*map(Message, ids, bodies), *extra]

    def open(self, world: World) -> PaperDelivery:
        return PaperDelivery()


class PaperDelivery:
    def __init__(self) -> None:
        self.closed = False
        if FLAW["is"] == "opened":
            TAKEN.clear()

    def deliver(self, messages: Sequence[Message]) -> None:
        assert messages or FLAW["is"] != "nothing"
        texts = [message.body.decode() for message in messages]
        TAKEN.extend(reversed(texts) if FLAW["is"] == "order" else texts)

    def counters(self) -> Mapping[str, Any]:
        return {"taken": "many" if FLAW["is"] == "counters" else len(TAKEN)}

    def close(self) -> None:
        self.closed = True


class PaperHarness:
    def channel(self) -> Paper:
        return Paper(hidden=int(FLAW["is"] == "settings"))

    def taken(self, count: int) -> Sequence[str]:
        return TAKEN

    def needing(self) -> tuple[Paper, str]:
        return Paper(), "machine"

    def absent(self) -> Paper | None:
        return Paper() if FLAW["is"] == "absent" else None

    def silent(self) -> Paper | None:
        return Paper() if FLAW["is"] == "absent" else None

    def wrong(self) -> tuple[Paper, str] | None:
        return (Paper(), "target") if FLAW["is"] == "check" else None


BROKEN: Mapping[Callable[..., None], str] = {
    channel_checks.messages_are_pure: "impure",
    channel_checks.ids_name_what_they_say: "ids",
    channel_checks.no_rows_no_messages: "empty",
    channel_checks.nulls_and_odd_values_are_no_error: "null",
    channel_checks.messages_survive_the_outbox: "body",
    channel_checks.what_is_delivered_arrives_in_order: "order",
    channel_checks.a_channel_opened_again_goes_on: "opened",
    channel_checks.delivering_nothing_is_no_error: "nothing",
    channel_checks.counters_are_numbers: "counters",
    channel_checks.a_missing_column_is_refused_by_name: "accepts",
    channel_checks.an_absent_peer_leaves_messages_in_the_outbox: "absent",
    channel_checks.a_silent_peer_leaves_messages_in_the_outbox: "absent",
    channel_checks.what_cannot_work_is_named: "check",
    channel_checks.settings_survive_json: "settings",
}


@pytest.fixture
def paper() -> Iterator[PaperHarness]:
    TAKEN.clear()
    yield PaperHarness()
    FLAW["is"] = ""


@pytest.mark.parametrize("check", CHANNEL_CHECKS, ids=lambda check: check.__name__)
def test_a_sound_channel_passes(paper: PaperHarness, check: Any) -> None:
    check(paper)


@pytest.mark.parametrize(("check", "flaw"), BROKEN.items(), ids=lambda value: getattr(value, "__name__", value))
def test_a_broken_channel_is_found(paper: PaperHarness, check: Any, flaw: str) -> None:
    FLAW["is"] = flaw
    with pytest.raises((AssertionError, AttributeError)):
        check(paper)


def test_each_check_has_its_breaker() -> None:
    assert set(BROKEN) == set(CHANNEL_CHECKS)
