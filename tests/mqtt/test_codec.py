"""The codec: what it writes it reads, what peers write it reads, nothing but `ProtocolError` leaves it."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import numpy as np
import paho.mqtt.client as paho
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.mqtt import codec, packets
from tocsin.mqtt.packets import V5, V311, ProtocolError

text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
u16, u32 = st.integers(0, 65535), st.integers(0, 2**32 - 1)
ids = st.integers(1, 65535)
some_properties = st.fixed_dictionaries(
    {},
    optional={
        "session_expiry_interval": u32,
        "receive_maximum": u16,
        "reason_string": text,
        "correlation_data": st.binary(max_size=9),
        "subscription_identifier": st.integers(1, 2**28 - 1),
        "user_property": st.lists(st.tuples(text, text), min_size=1, max_size=3),
        "maximum_qos": st.integers(0, 1),
    },
)
filters = st.lists(st.tuples(text, st.integers(0, 2)), min_size=1, max_size=4).map(tuple)
wills = st.builds(packets.Will, text, st.binary(max_size=20), st.integers(0, 2), st.booleans(), some_properties)
any_packet = st.one_of(
    st.builds(
        packets.Connect, text, st.just(V5), st.booleans(), u16, st.none() | text, st.none() | st.binary(max_size=9),
        st.none() | wills, some_properties,
    ),
    st.builds(packets.Connack, st.booleans(), st.integers(0, 255), some_properties),
    st.builds(packets.Ack, st.integers(packets.PUBACK, packets.PUBCOMP), ids, st.integers(0, 255), some_properties),
    st.builds(packets.Subscribe, ids, filters, some_properties),
    st.builds(packets.Unsubscribe, ids, st.lists(text, min_size=1, max_size=4).map(tuple), some_properties),
    st.builds(
        packets.Granted, st.sampled_from([packets.SUBACK, packets.UNSUBACK]), ids,
        st.lists(st.integers(0, 255), max_size=5).map(tuple), some_properties,
    ),
    st.builds(packets.Ping, st.sampled_from([packets.PINGREQ, packets.PINGRESP])),
    st.builds(packets.Disconnect, st.integers(0, 255), some_properties),
)  # fmt: skip
messages = st.lists(
    st.tuples(
        st.text("abc/é🌡", min_size=1, max_size=9), st.binary(max_size=300), st.integers(0, 2), ids, st.booleans()
    ),
    max_size=20,
)


def inbox(data: bytes, version: int = V5, size_max: int = 1 << 20, *, cut: bool = False) -> codec.ReceiveBuffer:
    box = codec.ReceiveBuffer(version, size_max, cut=cut)
    box.feed(data)
    return box


@given(any_packet)
def test_a_packet_is_read_as_it_was_written(packet: packets.Packet) -> None:
    box = inbox(packets.encode(packet, V5))
    frames = box.frames()
    assert frames.shape[1] == 1
    head, begin, end = (int(frames[row, 0]) for row in (codec.HEAD, codec.BODY, codec.END))
    assert packets.decode(head, box.data[begin:end].tobytes(), V5) == packet


@given(messages, st.sampled_from([V311, V5]), some_properties, st.integers(1, 50))
def test_messages_are_read_as_they_were_written_however_they_are_cut(
    sent: list[Any], version: int, properties: packets.Properties, piece: int
) -> None:
    data = b"".join(
        packets.publish(
            topic.encode(), payload, version=version, qos=qos, packet_id=packet_id, retain=retain, dup=bool(qos),
            properties=packets.properties(properties),
        )
        for topic, payload, qos, packet_id, retain in sent
    )  # fmt: skip
    box = codec.ReceiveBuffer(version, 1 << 20)
    got = []
    for start in range(0, len(data), piece):
        box.feed(data[start : start + piece])
        found = codec.publishes(box.data, box.frames())
        assert (found.dup == (found.qos > 0)).all()
        got += list(
            zip(*(c.to_pylist() if hasattr(c, "to_pylist") else c.tolist() for c in (
                found.topics, found.payloads, found.qos, found.packet_ids, found.retain)), strict=True)
        )  # fmt: skip
    assert got == [(t, p, qos, packet_id if qos else 0, retain) for t, p, qos, packet_id, retain in sent]


@given(st.binary(max_size=400), st.sampled_from([V311, V5]), st.booleans())
def test_any_bytes_are_packets_or_a_protocol_error(data: bytes, version: int, cut: bool) -> None:
    _digest(inbox(data, version, 200, cut=cut))


@given(any_packet, st.data())
def test_a_damaged_packet_is_a_packet_or_a_protocol_error(packet: packets.Packet, data: st.DataObject) -> None:
    good = bytearray(packets.encode(packet, V5))
    for _ in range(data.draw(st.integers(1, 3))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    _digest(inbox(bytes(good)))


def _digest(box: codec.ReceiveBuffer) -> None:
    with suppress(ProtocolError):
        while (frames := box.frames()).shape[1]:
            codec.publishes(box.data, frames)
            for i in np.flatnonzero(frames[codec.HEAD] >> 4 != packets.PUBLISH).tolist():
                begin, end = int(frames[codec.BODY, i]), int(frames[codec.END, i])
                packets.decode(int(frames[codec.HEAD, i]), box.data[begin:end].tobytes(), box.version)


@pytest.mark.parametrize(
    "bad",
    [
        b"\x36\x03\x00\x01a",  # QoS 3
        b"\x30\x02\x00\x00",  # no topic
        b"\x30\x03\x00\x01#",  # a wildcard in a topic
        b"\x30\x03\x00\x01\x00",  # NUL in a topic
        b"\x32\x05\x00\x01a\x00\x00",  # packet id 0
        b"\x32\x04\x00\x01a\x00",  # no room for the packet id
        b"\x30\x03\x00\x09a",  # a topic longer than the packet
        b"\x38\x03\x00\x01a",  # DUP at QoS 0
        b"\x30\xff\xff\xff\xff\x01",  # a length of five bytes
        b"\x40\x01\x00",  # half a packet id
        b"\x60\x02\x00\x01",  # PUBREL without its flags
    ],
)
def test_a_malformed_packet_is_refused_after_the_good_ones_before_it(bad: bytes) -> None:
    box = inbox(packets.publish(b"good", b"1", version=V311) + bad, V311)
    assert codec.publishes(box.data, box.frames()).topics.to_pylist() == ["good"]
    with pytest.raises(ProtocolError, match="malformed"):
        box.frames()


def test_a_topic_that_is_not_utf8_is_refused() -> None:
    box = inbox(packets.publish(b"\xff\xfe", b"1", version=V5))
    with pytest.raises(ProtocolError, match="UTF-8"):
        codec.publishes(box.data, box.frames())


@pytest.mark.parametrize("piece", [1000, 70_000, 10**7])
def test_a_message_over_the_limit_is_cut_or_refused(piece: int) -> None:
    data = packets.publish(b"a", b"x" * 900_000, version=V5, qos=1, packet_id=7) + packets.publish(
        b"b", b"2", version=V5
    )
    box = codec.ReceiveBuffer(V5, 1000, cut=True)
    got = []
    for start in range(0, len(data), piece):
        box.feed(data[start : start + piece])
        while (frames := box.frames()).shape[1]:
            found = codec.publishes(box.data, frames)
            got += list(zip(found.topics.to_pylist(), found.payloads.to_pylist(), strict=True))
    assert [topic for topic, _ in got] == ["a", "b"]
    assert 900 < len(got[0][1]) < 1000
    assert got[1][1] == b"2"
    with pytest.raises(ProtocolError, match="over the limit of 1000 bytes"):
        inbox(data, V5, 1000).frames()


def test_time_grows_with_the_bytes_and_not_faster() -> None:
    def cost(size: int) -> float:
        data = packets.publish(b"a", b"x" * size, version=V5)
        box = codec.ReceiveBuffer(V5, 1 << 28)
        begin = time.process_time()
        for start in range(0, len(data), 4096):  # asks again and again for a packet that is not complete
            box.feed(data[start : start + 4096])
            box.frames()
        return time.process_time() - begin

    cost(1 << 20)
    small = min(cost(1 << 20) for _ in range(3))
    large = min(cost(1 << 24) for _ in range(3))
    assert large < 16 * small * 6, "16 times the bytes must not take 256 times the time"


def test_a_length_in_a_header_reserves_no_memory() -> None:
    box = inbox(b"\x30\xff\xff\xff\x7f\x00\x01a", V311, 1 << 29)
    assert box.frames().shape[1] == 0
    assert len(box.data) < 1 << 20


def test_acknowledgements_are_what_the_standard_says() -> None:
    assert codec.acks(np.array([1, 0x1234]), np.array([1, 2])) == b"\x40\x02\x00\x01\x50\x02\x12\x34"


def test_hashes_tell_messages_apart() -> None:
    data = b"".join(
        packets.publish(t, p, version=V5, qos=1, packet_id=1)
        for t, p in [(b"a", b"bc"), (b"ab", b"c"), (b"a", b"bd"), (b"a", b"bc")]
    )
    box = inbox(data)
    hashes = codec.publishes(box.data, box.frames()).hashes.tolist()
    assert hashes[0] == hashes[3]
    assert len(set(hashes)) == 3


@pytest.mark.parametrize(("version", "theirs"), [(V311, paho.MQTTv311), (V5, paho.MQTTv5)])
def test_a_connect_of_paho_is_understood(version: int, theirs: int) -> None:
    client = paho.Client(paho.CallbackAPIVersion.VERSION2, "me", protocol=theirs)
    client.username_pw_set("user", "secret")
    client.will_set("will/topic", b"gone", qos=1, retain=True)
    written: list[bytes] = []
    client._packet_queue = lambda command, packet, mid, qos, info=None: written.append(bytes(packet)) or 0  # type: ignore[assignment, func-returns-value]
    client._send_connect(60)
    found = packets.decode(written[0][0], written[0][2:], version)
    assert isinstance(found, packets.Connect)
    assert (found.client_id, found.user, found.password, found.keep_alive_s) == ("me", "user", b"secret", 60)
    assert found.will == packets.Will("will/topic", b"gone", 1, True)
