"""The datafeed's query: which of five documents each form of it takes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tocsin.detect.job._query import compile_query
from tocsin.errors import ConfigError
from tocsin.testing import rows

DOCUMENTS = rows(
    {
        "event.action": pa.array(["start", "stop", "Started by root", None, ""]),
        "port": pa.array([80, 443, 8080, None, 22]),
        "load": pa.array([0.5, 1.0, 2.5, float("nan"), None]),
        "ok": pa.array([True, False, None, True, False]),
        "tags": pa.array([["a", "b"], ["b"], [], None, ["c d"]]),
        "at": pa.array([datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2, 3, 4, 5)]),
        "host": pa.array([{"name": "web-1", "ip": "10.0.0.1"}, {"name": "web-2"}, {"name": "db*1"}, {}, None],
                         pa.struct([("name", pa.string()), ("ip", pa.string())])),
        "raw": pa.array(['{"user": {"id": 7}}', '{"user.id": "7"}', "{broken", None, '{"user": 7}']),
    }
)  # fmt: skip


def taken(query: Mapping[str, Any]) -> list[int]:
    return [i for i, hit in enumerate(compile_query(query)(DOCUMENTS).tolist()) if hit]


TABLE: list[tuple[Mapping[str, Any], list[int]]] = [
    ({}, [0, 1, 2, 3, 4]),
    ({"match_all": {}}, [0, 1, 2, 3, 4]),
    ({"match_all": {"boost": 1.2}}, [0, 1, 2, 3, 4]),
    ({"match_none": {}}, []),
    ({"term": {"event.action": "start"}}, [0]),
    ({"term": {"event.action": {"value": "start"}}}, [0]),
    ({"term": {"event.action.keyword": "stop"}}, [1]),
    ({"term": {"event.action": {"value": "START", "case_insensitive": True}}}, [0]),
    ({"term": {"event.action": "START"}}, []),
    ({"term": {"event.action": ""}}, [4]),
    ({"term": {"port": 443}}, [1]),
    ({"term": {"port": "443"}}, [1]),
    ({"term": {"ok": True}}, [0, 3]),
    ({"term": {"ok": "false"}}, [1, 4]),
    ({"term": {"tags": "b"}}, [0, 1]),
    ({"term": {"host.name": "web-1"}}, [0]),
    ({"term": {"raw.user.id": "7"}}, [0, 1]),
    ({"term": {"nowhere": 1}}, []),
    ({"terms": {"port": [22, 80, 1]}}, [0, 4]),
    ({"terms": {"tags": ["a", "c d"], "boost": 2}}, [0, 4]),
    ({"match": {"event.action": "start"}}, [0]),
    ({"match": {"event.action": "root started"}}, [2]),
    ({"match": {"event.action": {"query": "stop root"}}}, [1, 2]),
    ({"match": {"event.action": {"query": "stop root", "operator": "and"}}}, []),
    ({"match": {"port": 80}}, [0]),
    ({"match_phrase": {"event.action": "started by"}}, [2]),
    ({"match_phrase": {"event.action": "by started"}}, []),
    ({"match_phrase_prefix": {"event.action": "started b"}}, [2]),
    ({"match_phrase": {"event.action": {"query": "stop"}}}, [1]),
    ({"multi_match": {"query": "web-1", "fields": ["host.name^3", "event.action"]}}, [0]),
    ({"exists": {"field": "port"}}, [0, 1, 2, 4]),
    ({"exists": {"field": "tags"}}, [0, 1, 4]),
    ({"exists": {"field": "host.ip"}}, [0]),
    ({"exists": {"field": "nowhere"}}, []),
    ({"range": {"port": {"gte": 80, "lt": 8080}}}, [0, 1]),
    ({"range": {"port": {"gt": "80"}}}, [1, 2]),
    ({"range": {"load": {"lte": 1}}}, [0, 1]),
    ({"range": {"port": {"from": 80, "to": 443, "include_upper": False}}}, [0]),
    ({"range": {"at": {"gte": "2026-01-02", "lt": "2026-01-04T00:00:00Z", "format": "date"}}}, [1, 2]),
    ({"range": {"at": {"gte": 1767312000000, "lte": 1767312000000}}}, [1]),
    ({"range": {"at": {"gte": "now-1d"}}}, [0, 1, 2, 3, 4]),
    ({"range": {"event.action": {"gte": "start", "lte": "stop"}}}, [0, 1]),
    ({"prefix": {"host.name": "web"}}, [0, 1]),
    ({"prefix": {"event.action": {"value": "START", "case_insensitive": True}}}, [0, 2]),
    ({"wildcard": {"host.name": "web-?"}}, [0, 1]),
    ({"wildcard": {"host.name": {"value": "*1"}}}, [0, 2]),
    ({"wildcard": {"host.name": {"wildcard": "WEB*", "case_insensitive": True}}}, [0, 1]),
    ({"wildcard": {"host.name": r"db\*1"}}, [2]),
    ({"wildcard": {"host.name": "[w]eb*"}}, []),
    ({"regexp": {"host.name": "web-[0-9]"}}, [0, 1]),
    ({"regexp": {"host.name": "web"}}, []),
    ({"bool": {"filter": {"term": {"ok": True}}}}, [0, 3]),
    ({"bool": {"must": [{"bool": {"filter": {"term": {"ok": False}}}}, {"exists": {"field": "tags"}}]}}, [1, 4]),
    ({"bool": {"must_not": [{"exists": {"field": "port"}}]}}, [3]),
    ({"bool": {"should": [{"term": {"port": 80}}, {"term": {"port": 22}}]}}, [0, 4]),
    ({"bool": {"should": [{"term": {"port": 80}}], "filter": [{"term": {"ok": True}}]}}, [0, 3]),
    ({"bool": {"should": [{"term": {"port": 80}}], "filter": {"term": {"ok": True}}, "minimum_should_match": 1}}, [0]),
    ({"bool": {"should": [{"term": {"tags": "a"}}, {"term": {"tags": "b"}}], "minimum_should_match": "100%"}}, [0]),
    ({"bool": {"should": [{"term": {"tags": "a"}}, {"term": {"tags": "b"}}], "minimum_should_match": -1}}, [0, 1]),
    ({"bool": {"adjust_pure_negative": True, "boost": 1}}, [0, 1, 2, 3, 4]),
    ({"constant_score": {"filter": {"term": {"port": 22}}}}, [4]),
    ({"nested": {"path": "host", "query": {"term": {"host.name": "web-2"}}}}, [1]),
    ({"function_score": {"query": {"term": {"port": 22}}}}, [4]),
    ({"dis_max": {"queries": [{"term": {"port": 22}}, {"term": {"port": 80}}]}}, [0, 4]),
    ({"query_string": {"query": "port:443"}}, [1]),
    ({"query_string": {"query": "*"}}, [0, 1, 2, 3, 4]),
    ({"query_string": {"query": "ok:true AND port:80"}}, [0]),
    ({"query_string": {"query": "port:80 OR port:22"}}, [0, 4]),
    ({"query_string": {"query": "port:(80 OR 22) AND NOT ok:true"}}, [4]),
    ({"query_string": {"query": "port:[80 TO 443]"}}, [0, 1]),
    ({"query_string": {"query": "port:{80 TO *]"}}, [1, 2]),
    ({"query_string": {"query": "port:>=443"}}, [1, 2]),
    ({"query_string": {"query": "_exists_:port AND -ok:false"}}, [0, 2]),
    ({"query_string": {"query": "host.name:web*"}}, [0, 1]),
    ({"query_string": {"query": 'event.action:"started by root"'}}, [2]),
    ({"query_string": {"query": "event.action:/sto./"}}, [1]),
    ({"query_string": {"query": "web*", "fields": ["host.name"]}}, [0, 1]),
    ({"query_string": {"query": "ok:true port:22", "default_operator": "AND"}}, []),
    ({"query_string": {"query": "ok:true port:22"}}, [0, 3, 4]),
    ({"query_string": {"query": "stop"}}, [1]),
    ({"simple_query_string": {"query": "stop", "fields": ["event.action"]}}, [1]),
]  # fmt: skip


@pytest.mark.parametrize(("query", "wanted"), TABLE, ids=lambda value: re.sub(r"\W+", "-", str(value))[:60])
def test_query(query: Mapping[str, Any], wanted: list[int]) -> None:
    assert taken(query) == wanted


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"trem": {"a": 1}}, "did you mean 'term'"),
        ({"script": {"script": "doc.x"}}, "script"),
        ({"bool": {"must": {"bool": {"mustt": []}}}}, r"query.bool.must\[0\].bool"),
        ({"term": {"a": 1, "b": 2}}, "one field"),
        ({"terms": {"a": 1}}, "a list"),
        ({"term": 3}, "an object"),
        ({"regexp": {"a": "["}}, "regular expression"),
        ({"query_string": {"query": "(a:1"}}, "not closed"),
        ({"query_string": {"query": "a:1 AND"}}, None),
        ({"bool": {"minimum_should_match": "many", "should": []}}, "minimum_should_match"),
    ],
)  # fmt: skip
def test_what_cannot_be_understood_is_refused_with_its_place(query: Mapping[str, Any], said: str | None) -> None:
    if said is None:  # what Lucene would take as a term, we take as nothing more
        assert taken(query) == []
        return
    with pytest.raises(ConfigError, match=said):
        compile_query(query)


@given(st.text(max_size=30))
def test_any_query_string_is_understood_or_refused(text: str) -> None:
    with suppress(ConfigError):
        compile_query({"query_string": {"query": text}})(DOCUMENTS)


@given(st.text(alphabet="abc*?[]\\", max_size=8), st.text(alphabet="abc*[]", max_size=8))
def test_wildcards_against_a_scalar_reference(pattern: str, text: str) -> None:
    """A star is any text, a question mark any character, a backslash takes the next one as it is."""

    def fits(p: str, t: str) -> bool:
        if not p:
            return not t
        if p[0] == "\\" and len(p) > 1:
            return bool(t) and t[0] == p[1] and fits(p[2:], t[1:])
        if p[0] == "*":
            return any(fits(p[1:], t[i:]) for i in range(len(t) + 1))
        return bool(t) and (p[0] in ("?", t[0])) and fits(p[1:], t[1:])

    one = rows({"x": pa.array([text])})
    assert compile_query({"wildcard": {"x": pattern}})(one).tolist() == [fits(pattern, text)]
