"""A password in an address that is wrong, or has no place for one, is not shown by whoever refuses the address."""

from __future__ import annotations

from pathlib import Path

import pytest

from tocsin.engine.recovery import Effects, check_ends
from tocsin.errors import ConfigError, SchemaError
from tocsin.pipeline.yamlfile import load_with_plan

SECRET = "s3cretw0rd"
PIPELINE = """\
name: plant
folder: {folder}/lake
source: {source}
decode: {{json: {{columns: {{machine: text, n: int}}}}}}
key: machine
streams: {{readings: {{sinks: [{sink}]}}}}
"""
HOSTS = (
    "//me:{}@host:99999999",
    "//me:{}@",
    "//me:{}@[::1",
    "//me:a/{}@host:1",
    "//me:a#{}@host/db",
    "//host?password={}",
)
SOURCES = {
    "mqtt": ("mqtt", "{{mqtt: {{url: '{url}', topic: a}}}}"),
    "postgres": ("postgresql", "{{postgres: {{url: '{url}', table: t, cursor: n}}}}"),
    "opcua": ("opc.tcp", "{{opcua: {{url: '{url}', nodes: {{m: {{a: 'ns=2;i=3'}}}}}}}}"),
    "kinesis": ("https", "{{kinesis: {{stream: s, region: r, endpoint: '{url}'}}}}"),
    "kafka": ("kafka", "{{kafka: {{brokers: '{url}', topics: t}}}}"),
}
SINKS = {
    "delta": ("s4", "{{delta: {{path: '{url}'}}}}"),
    "files": ("s3", "{{files: {{path: '{url}'}}}}"),
    "postgres": ("postgresql", "{{postgres: {{url: '{url}', table: t}}}}"),
    "redshift": ("postgresql", "{{redshift: {{url: '{url}', table: t, staging: 's3://bucket', role: default}}}}"),
    "redshift by": ("s3", "{{redshift: {{url: 'postgresql://h/d', table: t, staging: '{url}', role: default}}}}"),
    "influxdb": ("https", "{{influxdb: {{url: '{url}', bucket: b, measurement: m}}}}"),
    "kafka": ("kafka", "{{kafka: {{brokers: '{url}', topic: t}}}}"),
    "mqtt": ("mqtt", "{{mqtt: {{url: '{url}', topic: a}}}}"),
    "notify": ("slak", "{{notify: {{to: '{url}'}}}}"),
}
FILES = "{files: {path: in.ndjson}}"
CASES = [
    *((name, scheme, source, "delta: r") for name, (scheme, source) in SOURCES.items()),
    *((name, scheme, None, sink) for name, (scheme, sink) in SINKS.items()),
]


def refused(tmp_path: Path, source: str, sink: str) -> str:
    """Returns what `tocsin check` says of a pipeline that cannot be."""
    path = tmp_path / "plant.yaml"
    path.write_text(PIPELINE.format(folder=tmp_path, source=source, sink=sink))
    with pytest.raises((ConfigError, SchemaError)) as error:
        check_ends(load_with_plan(path)[1], Effects())
    return str(error.value)


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")
@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize(("name", "scheme", "source", "sink"), CASES)
def test_it_is_not_shown(name: str, scheme: str, source: str | None, sink: str, host: str, tmp_path: Path) -> None:
    url = f"{scheme}:{host.format(SECRET)}"
    said = refused(tmp_path, FILES if source is None else source.format(url=url), sink.format(url=url))
    assert SECRET not in said.lower()
    assert len(said.splitlines()) == 1


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")
@pytest.mark.parametrize(
    "target",
    [f"me:{SECRET}@host", f"tgram//{SECRET}", f"tgram://{SECRET}/", f"https://{SECRET}@host:abc/x", "https://"],
)
def test_a_target_that_cannot_be_is_told_without_its_token(target: str, tmp_path: Path) -> None:
    said = refused(tmp_path, FILES, f"notify: {{to: '{target}'}}")
    assert "notify cannot send to" in said
    assert SECRET not in said.lower()


def test_a_table_elsewhere_has_its_password_in_settings(tmp_path: Path) -> None:
    said = refused(tmp_path, FILES, f"delta: {{path: 's3://key:{SECRET}@bucket/readings'}}")
    assert "a password does not belong in an address" in said
    assert SECRET not in said
