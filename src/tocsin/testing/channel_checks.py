"""What every channel must keep to, as functions that raise `AssertionError`: the kit for those who write one.

    for check in CHANNEL_CHECKS:
        check(harness)

A `ChannelHarness` makes the channel and tells what its other side has taken.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Protocol

import pyarrow as pa

from tocsin.contracts import Channel, Message
from tocsin.errors import DeliveryError
from tocsin.testing import refusal, rows, world
from tocsin.world import SystemClock

ANSWERS_WITHIN_S = 12.0
"""So long a channel may try a peer that does not answer before it gives up for this time."""


class ChannelHarness(Protocol):
    """A channel, and what its other side has taken."""

    def channel(self) -> Channel:
        """Returns the channel; each harness has an other side of its own."""

    def taken(self, count: int) -> Sequence[str]:
        """Returns the values of column ``text`` that have arrived, in order; waits for so many."""

    def needing(self) -> tuple[Channel, str] | None:
        """Returns the channel set to need a column that is not there, and its name; None where it needs none."""

    def absent(self) -> Channel | None:
        """Returns the channel with a peer that is not there; None where it has no peer."""

    def silent(self) -> Channel | None:
        """Returns the channel with a peer that accepts and never answers; None where it has no peer."""

    def wrong(self) -> tuple[Channel, str] | None:
        """Returns the channel with a setting that cannot work, and a word that `check` must say; None if none can."""


def _rows(first: int, count: int = 3) -> pa.RecordBatch:
    return rows({"key": ["pump"] * count, "text": [f"m{first + i}" for i in range(count)]})


def _ids(messages: Sequence[Message]) -> list[str]:
    return [message.id for message in messages]


def messages_are_pure(harness: ChannelHarness) -> None:
    """The same rows give the same messages, from another channel with the same settings, too."""
    assert list(harness.channel().messages(_rows(0))) == list(harness.channel().messages(_rows(0)))


def ids_name_what_they_say(harness: ChannelHarness) -> None:
    """Other rows have other ids, and no id comes twice."""
    channel = harness.channel()
    one, two = _ids(channel.messages(_rows(0))), _ids(channel.messages(_rows(100)))
    assert len(set(one)) == len(one)
    assert not set(one) & set(two)


def no_rows_no_messages(harness: ChannelHarness) -> None:
    """An epoch without rows rings nothing."""
    assert not harness.channel().messages(_rows(0, 0))


def nulls_and_odd_values_are_no_error(harness: ChannelHarness) -> None:
    """What a row may hold: nothing, not a number, control characters, bytes."""
    odd = {"text": [None, "\x1b[31m\n", "ü"], "value": [None, float("nan"), float("inf")], "raw": [b"\xff", None, b""]}
    assert harness.channel().messages(rows(odd))


def messages_survive_the_outbox(harness: ChannelHarness) -> None:
    """Bytes and text only: they wait in a database."""
    for message in harness.channel().messages(_rows(0)):
        assert isinstance(message.id, str)
        assert isinstance(message.body, bytes)


def what_is_delivered_arrives_in_order(harness: ChannelHarness) -> None:
    """All of it."""
    channel = harness.channel()
    delivery = channel.open(world())
    delivery.deliver(channel.messages(_rows(0, 5)))
    assert list(harness.taken(5)) == [f"m{i}" for i in range(5)]
    delivery.close()


def a_channel_opened_again_goes_on(harness: ChannelHarness) -> None:
    """After a restart."""
    channel = harness.channel()
    for first in (0, 5):
        delivery = channel.open(world())
        delivery.deliver(channel.messages(_rows(first, 5)))
        delivery.close()
    assert list(harness.taken(10)) == [f"m{i}" for i in range(10)]


def delivering_nothing_is_no_error(harness: ChannelHarness) -> None:
    """And neither is closing twice, or closing what was never used."""
    delivery = harness.channel().open(world())
    delivery.deliver([])
    delivery.close()
    delivery.close()


def counters_are_numbers(harness: ChannelHarness) -> None:
    """What the page asks of a channel."""
    delivery = harness.channel().open(world())
    assert all(isinstance(count, int) for count in delivery.counters().values())
    delivery.close()


def a_missing_column_is_refused_by_name(harness: ChannelHarness) -> None:
    """`accepts` says it before data flows."""
    needing = harness.needing()
    if needing is None:
        return
    said = refusal(lambda: needing[0].accepts(_rows(0).schema))
    assert needing[1] in said, f"accepts says '{said}', which does not name {needing[1]}"


def an_absent_peer_leaves_messages_in_the_outbox(harness: ChannelHarness) -> None:
    """`DeliveryError`, soon, and nothing else."""
    _is_refused_soon(harness.absent())


def a_silent_peer_leaves_messages_in_the_outbox(harness: ChannelHarness) -> None:
    """A peer that accepts and never answers is given up for this time."""
    _is_refused_soon(harness.silent())


def _is_refused_soon(channel: Channel | None) -> None:
    if channel is None:
        return
    clock = SystemClock()
    delivery, began_s, said = channel.open(world()), clock.monotonic_s(), ""
    try:
        delivery.deliver(channel.messages(_rows(0)))
    except DeliveryError as error:
        said = str(error)
    took_s = clock.monotonic_s() - began_s
    delivery.close()
    assert said, "the messages count as delivered"
    assert took_s < ANSWERS_WITHIN_S, f"it took {took_s:.1f} s"


def what_cannot_work_is_named(harness: ChannelHarness) -> None:
    """`check` says it before anything is opened."""
    wrong = harness.wrong()
    if wrong is None:
        return
    said = refusal(lambda: wrong[0].check(world()))
    assert wrong[1] in said, f"check says '{said}', which does not name {wrong[1]}"


def settings_survive_json(harness: ChannelHarness) -> None:
    """The channel comes back from its own JSON."""
    channel = harness.channel()
    assert type(channel).model_validate(json.loads(channel.model_dump_json())) == channel


CHANNEL_CHECKS: Sequence[Callable[[ChannelHarness], None]] = (
    messages_are_pure,
    ids_name_what_they_say,
    no_rows_no_messages,
    nulls_and_odd_values_are_no_error,
    messages_survive_the_outbox,
    what_is_delivered_arrives_in_order,
    a_channel_opened_again_goes_on,
    delivering_nothing_is_no_error,
    counters_are_numbers,
    a_missing_column_is_refused_by_name,
    an_absent_peer_leaves_messages_in_the_outbox,
    a_silent_peer_leaves_messages_in_the_outbox,
    what_cannot_work_is_named,
    settings_survive_json,
)

__all__ = ["CHANNEL_CHECKS", "ChannelHarness"]
