import asyncio

import msgspec

from tocsin.serve.hub import Hub, Viewer
from tocsin.serve.messages import NewPoints


def payload(message: bytes) -> int:
    return msgspec.json.decode(message.partition(b"data: ")[2])


async def read(hub: Hub, after: str, count: int) -> list[bytes]:
    found = []
    async for message in hub.messages(after):
        found.append(message)
        if len(found) == count:
            break
    return found


def test_a_viewer_that_comes_back_gets_what_it_missed() -> None:
    hub = Hub()
    for i in range(5):
        hub.publish(i, {})
    retry, *messages = asyncio.run(read(hub, f"{hub.boot}-3", 3))
    assert retry.startswith(b"retry:")
    assert [payload(m) for m in messages] == [3, 4]


def test_a_viewer_from_long_ago_or_another_start_is_told_to_begin_anew() -> None:
    hub = Hub()
    for i in range(100):
        hub.publish(i, {})
    for after in ("", "x", f"{hub.boot}-1", f"{hub.boot}-101", f"{hub.boot}--1", "other-99", f"{hub.boot}-²"):
        assert b"event: reset" in asyncio.run(read(hub, after, 2))[1], after


def test_a_slow_viewer_loses_the_oldest_and_sees_that_it_did() -> None:
    hub, viewer = Hub(), Viewer()
    hub.viewers.add(viewer)
    for i in range(100):
        hub.publish(i, {})
    assert len(viewer.waiting) == 16
    assert payload(viewer.waiting[-1]) == 99
    assert viewer.waiting[0].startswith(f"id: {hub.boot}-85\n".encode())


def test_each_message_is_encoded_once_for_all() -> None:
    hub = Hub()
    viewers = [Viewer() for _ in range(3)]
    hub.viewers.update(viewers)
    hub.publish({"a": 1}, {})
    first, *others = [viewer.waiting[0] for viewer in viewers]
    assert all(other is first for other in others)


def test_a_viewer_whose_session_ends_gets_no_more() -> None:
    async def seen() -> list[bytes]:
        hub, found = Hub(), []
        async for message in hub.messages(hub.position, lambda: len(found) < 3):
            found.append(message)
            hub.publish(len(found), {})
        return found

    assert len(asyncio.run(seen())) == 3


def test_closing_ends_every_stream() -> None:
    async def closed() -> list[bytes]:
        hub = Hub()
        reading = asyncio.create_task(read(hub, hub.position, 99))
        while not hub.viewers:
            await asyncio.sleep(0)
        hub.publish(1, {})
        hub.close()
        found = await asyncio.wait_for(reading, 5)
        assert not hub.viewers
        return found

    assert len(asyncio.run(closed())) == 2


def test_points_go_to_those_who_look_at_the_machine() -> None:
    hub = Hub()
    looking, other, nowhere = Viewer("press"), Viewer("oven"), Viewer()
    hub.viewers.update((looking, other, nowhere))
    hub.publish(1, {"press": NewPoints("press", [])})
    assert other.waiting == nowhere.waiting
    assert [message.count(b"event: points") for message in (looking.waiting[0], other.waiting[0])] == [1, 0]
    assert looking.waiting[0].startswith(other.waiting[0])
