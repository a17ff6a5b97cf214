"""What a detector model publishes reaches the broker: the topic and the payload that the model says."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa

from tocsin.acquire.mqtt import Mqtt as Subscription
from tocsin.mqtt.broker import Broker, BrokerConfiguration
from tocsin.notify.detector_model import DetectorModel
from tocsin.output.mqtt import Mqtt
from tocsin.testing import feed, read_from, rows, world

TELL = {
    "iotTopicPublish": {
        "mqttTopic": "'plant/${$input.I.name}/hot'",
        "payload": {"type": "JSON", "contentExpression": "'{\"celsius\": ${$input.I.t}}'"},
    }
}
MODEL = {
    "states": [
        {
            "stateName": "A",
            "onInput": {"events": [{"eventName": "hot", "condition": "$input.I.t > 90", "actions": [TELL]}]},
        }
    ],
    "initialStateName": "A",
}


def test_topic_and_payload_go_out_as_the_model_says(tmp_path: Path) -> None:
    left = feed(
        DetectorModel(model=MODEL, transitions=False), rows({"t": [20.5, 95.5, 99.0], "name": ["fan", "fan", "a+b"]})
    )
    (batch,) = left.combine_chunks().to_batches()
    with Broker(BrokerConfiguration()) as broker:
        reader = read_from(Subscription(url=broker.url, topic="plant/#"))
        while reader.counters()["connects"] == 0:
            assert reader.poll(1, 0.1) is None
        channel = Mqtt(url=broker.url, topic="{target}", payload="payload")
        delivery = channel.open(world(tmp_path))
        delivery.deliver(channel.messages(batch))
        polled = reader.poll(10, 5.0)
        delivery.close()
        reader.close()
    assert polled is not None
    taken: pa.RecordBatch = polled[0].rows
    assert taken["topic"].to_pylist() == ["plant/fan/hot"]
    assert json.loads(taken["payload"][0].as_py()) == {"celsius": 95.5}
    assert delivery.refused == 1, "a topic with a wildcard is not published to"
