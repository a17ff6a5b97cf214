"""Sink `redshift` over the stand-in: what it loads, what is set aside, and what is left behind wherever it breaks."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from postgres_server import TRUSTED
from redshift_server import ROLE
from redshift_server import Redshift as Server

from tocsin.contracts import Token
from tocsin.errors import ConfigError, SchemaError, SinkError, TocsinError, Unavailable
from tocsin.output import redshift as module
from tocsin.output.redshift import Redshift as Sink
from tocsin.redshift import files
from tocsin.redshift.bookkeeping import RedshiftBookkeeping
from tocsin.testing import rows, world
from tocsin.testing.simulated import Crash, SimulatedWorld
from tocsin.world import World

BAD = "a text of more than ten bytes"


class Cluster:
    """A schema of its own in the stand-in, a folder of its own in S3, and the sink's table."""

    def __init__(self, server: Server) -> None:
        self.server, self.schema = server, server.server.schema()

    def sink(self, **settings: Any) -> Sink:
        return Sink.model_validate({
            "url": self.server.url, "user": TRUSTED, "table": f"{self.schema}.t", "role": ROLE,
            "staging": f"s3://plant/loads/{self.schema}", "storage": self.server.store.options, **settings,
        })  # fmt: skip

    def put(self, *batches: pa.RecordBatch, place: World | None = None, **settings: Any) -> Mapping[str, int]:
        """Publish each batch as the next epoch of a writer; returns what it counts."""
        sink = self.sink(**settings)
        sink.accepts(batches[0].schema)
        with closing(sink.open(place or world(), batches[0].schema)) as writer:
            first = (writer.published() or 0) + 1
            for epoch, batch in enumerate(batches, first):
                writer.publish(epoch, [writer.stage(epoch, [batch])])
            return writer.counters()

    def make(self, statement: str) -> None:
        """Run a statement in which ``{t}`` is the table."""
        self.server.server.execute(statement.replace("{t}", f"{self.schema}.t"))

    def rows(self, columns: str = "*", of: str = "t", by: str = "1") -> Sequence[Any]:
        return self.server.server.execute(f"select {columns} from {self.schema}.{of} order by {by}")

    def left(self) -> list[str]:
        """Returns the files that lie in S3."""
        return list(self.server.store.objects(f"loads/{self.schema}"))

    def rejected(self) -> list[tuple[str, str]]:
        return [(str(why), str(what)) for why, what in self.rows("reason, contents", "tocsin_rejected")]

    def copies(self) -> list[str]:
        return [statement for statement in self.server.statements if statement.startswith("copy")]


@pytest.fixture
def cluster(redshift: Server) -> Cluster:
    return Cluster(redshift)


def values(*of: Any, **more: Any) -> pa.RecordBatch:
    return rows({"value": pa.array(of), **more})


def test_values_arrive_as_they_were(cluster: Cluster) -> None:
    time = pa.array(
        [datetime(2026, 1, 2, 3, 4, 5, 678901), None, datetime(1969, 1, 1)], pa.timestamp("us", "Asia/Tokyo")
    )
    cluster.put(
        rows({
            "n": [0, 1, 2],
            "words": ['a "b",\r\n\\Nü', "", None],
            "number": [0.1, float("-inf"), None],
            "at": time,
            "Raw": pa.array([b"\x00\xff", b"", None]),
            "several": pa.array([[1.5, None], [], None]),
            "money": pa.array([2**64 - 1, 0, None], pa.uint64()),
            "unknown": pa.nulls(3),
        })
    )  # fmt: skip
    assert cluster.rows("n, words, number, at, raw, several, money", by="n") == [
        (0, 'a "b",\r\n\\Nü', 0.1, time[0].as_py(), "00ff", [1.5, None], 2**64 - 1),
        (1, "", float("-inf"), None, "", [], 0),
        (2, None, None, time[2].as_py(), None, None, None),
    ]


def test_a_text_that_looks_like_the_word_for_null_is_kept(cluster: Cluster) -> None:
    cluster.put(values("@NULL@", None, "@NULL@@", "NULL"))
    assert Counter(value for (value,) in cluster.rows("value")) == Counter(["@NULL@", None, "@NULL@@", "NULL"])


def test_rows_are_split_and_named_by_a_manifest_and_no_key_is_in_any_statement(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "FILE_BYTES", (1 << 10, 4 << 10))
    seen: list[str] = []
    cluster.server.on_copy = lambda: seen.extend(cluster.left())
    cluster.put(values(*range(1_000)), slices=4)
    parts = [name for name in seen if name.endswith(".csv.gz")]
    (manifest,) = [name for name in seen if name.endswith("manifest")]
    assert len(parts) % 4 == 0
    assert len(parts) > 4
    (copy,) = cluster.copies()
    assert f"s3://plant/loads/{cluster.schema}/{manifest}'" in copy
    assert f"iam_role '{ROLE}' region 'us-east-1'" in copy
    assert cluster.server.store.SECRET not in "".join(cluster.server.statements)
    assert cluster.rows("count(*), sum(value)") == [(1_000, 499_500)]
    assert not cluster.left()


@pytest.mark.parametrize("settings", [{}, {"upsert": "n"}], ids=["append", "upsert"])
def test_one_bad_row_costs_its_neighbours_nothing(
    cluster: Cluster, settings: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "FILE_BYTES", (1 << 10, 64 << 10))
    cluster.make("create table {t} (n smallint, value varchar(10) not null, time timestamptz)")
    bad = {0: 2**20, 499: 7, 500: 7}
    names = [BAD if i == 7 else None if i == 8 else "nul\0" if i == 9 else "two\nlines" for i in range(1_000)]
    counted = cluster.put(rows({"n": [bad.get(i, i) for i in range(1_000)], "value": names}), **settings)
    refused = {json.loads(contents)["value"]: reason for reason, contents in cluster.rejected()}
    assert "column 'value': value too long for type character varying(10)" in refused[BAD]
    assert "out of range" in refused["two\nlines"]
    assert "NUL" in refused["nul\0"]
    assert refused[None] == "column 'value' is null, but the table takes none there"
    assert counted == {"rejected": len(refused)} == {"rejected": 4}
    kept = Counter(n for (n,) in cluster.rows("n"))
    expected = Counter({n: 1 for n in range(1, 1_000) if n not in (7, 8, 9, 499, 500)} | {7: 1 if settings else 2})
    assert kept == expected


def test_a_load_of_nothing_but_bad_rows_is_no_error(cluster: Cluster) -> None:
    cluster.make("create table {t} (value varchar(10))")
    assert cluster.put(values(BAD, BAD)) == {"rejected": 2}
    assert cluster.rows("epoch", "tocsin_epochs") == [(1,)]


def test_more_bad_rows_than_copy_allows_break_the_load_and_nothing_is_lost(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tocsin.redshift.table.ERRORS_MAX", 1)
    cluster.make("create table {t} (value varchar(10))")
    place = world()
    with pytest.raises(SinkError, match=r"Load into table .* failed"):
        cluster.put(values("good", BAD, BAD), place=place)
    assert cluster.rows() == []
    monkeypatch.undo()
    assert cluster.put(values("good", BAD, BAD), place=place) == {"rejected": 2}


def test_upsert_replaces_rows_and_keeps_the_last_of_each_key(cluster: Cluster) -> None:
    def batch(*of: tuple[str | None, int]) -> pa.RecordBatch:
        return rows({"key": pa.array([k for k, _ in of], pa.string()), "value": [v for _, v in of]})

    counted = cluster.put(batch(("a", 1), ("b", 2), ("a", 3)), batch(("b", 4), ("c", 5), (None, 6)), upsert="key")
    assert cluster.rows("key, value") == [("a", 3), ("b", 4), ("c", 5)]
    assert counted == {"rejected": 1}


def test_a_new_column_is_added_and_another_type_is_refused(cluster: Cluster) -> None:
    place = world()
    cluster.put(values(1), place=place)
    cluster.put(values(2, More=["a"]), place=place)
    assert cluster.rows("value, more", by="value") == [(1, None), (2, "a")]
    assert "added column more" in [change for (change,) in cluster.rows("change", "tocsin_history")]
    with pytest.raises(SinkError, match="has column 'value' as bigint, what comes is character varying"):
        cluster.put(values("a"), place=place)
    cluster.put(values(5), place=place)  # as if a step had cast it
    cluster.make(
        "alter table {t} add column needed bigint not null default 0; alter table {t} alter needed drop default"
    )
    with pytest.raises(SinkError, match="needs a value in column 'needed'"):
        cluster.put(values(3), place=place)


def test_rows_older_than_the_retention_are_deleted(cluster: Cluster) -> None:
    now = datetime.now(UTC)
    batch = rows({"time": [now - timedelta(days=40), now - timedelta(days=20)], "value": [1, 2]})
    place = world()
    cluster.put(batch, place=place, retention="30d")
    assert cluster.sink(retention="30d").tend("retain", place) == "1 old rows deleted"
    assert cluster.sink().tend("vacuum", place) == "vacuumed and analyzed"
    assert cluster.rows("value") == [(2,)]


# exactly once

EPOCHS = (1, 2)
EXPECTED = [(float(10 * epoch + i),) for epoch in EPOCHS for i in range(3)]


def batch_of(epoch: int) -> pa.RecordBatch:
    return rows({"key": ["pump"] * 3, "value": [float(10 * epoch + i) for i in range(3)]})


def live(writer: Any, committed: dict[int, Token], epochs: Sequence[int] = EPOCHS) -> None:
    """One life of an engine: finish what was committed, then the epochs that are not."""
    done = writer.published() or 0
    writer.discard(list(committed.values()))
    waiting = {epoch: token for epoch, token in committed.items() if epoch > done}
    if waiting:
        writer.publish(max(waiting), list(waiting.values()))
    for epoch in epochs:
        if epoch not in committed:
            committed[epoch] = writer.stage(epoch, [batch_of(epoch)])
            writer.publish(epoch, [committed[epoch]])


def test_each_row_is_there_once_wherever_the_connection_is_cut(redshift: Server) -> None:
    """Each statement in turn is carried out, and its answer never comes."""
    for statement in count(1):
        cluster, place, committed = Cluster(redshift), world(), dict[int, Token]()
        redshift.cut_behind = statement
        lives = 0
        while lives < 5:
            lives += 1
            with closing(cluster.sink().open(place, batch_of(1).schema)) as writer, suppress(Unavailable):
                live(writer, committed, EPOCHS[:1])
                break
        assert cluster.rows("value") == EXPECTED[:3], f"cut behind statement {statement}"
        assert not cluster.left(), f"cut behind statement {statement}"
        if redshift.cut_behind:
            redshift.cut_behind = 0
            assert statement > 20, "hardly any statement was tried"
            return
        assert lives == 2


class Stepping:
    """The store, behind each of whose calls the process may die."""

    def __init__(self, inner: Any, simulated: SimulatedWorld) -> None:
        self._inner, self._simulated = inner, simulated

    def __getattr__(self, name: str) -> Any:
        def stepped(*arguments: Any) -> Any:
            answer = getattr(self._inner, name)(*arguments)
            answer = list(answer) if isinstance(answer, Iterator) else answer
            self._simulated.io(f"behind {name}")
            return answer

        return stepped


def test_each_row_is_there_once_wherever_the_process_dies(redshift: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between files, manifest, COPY, commit and clean-up; what it leaves behind is gone after the next start."""
    opened, left_behind = module.open_store, 0
    for step in range(1, 1_000):
        cluster, simulated = Cluster(redshift), SimulatedWorld(seed=step, faults=0)
        place = simulated.part(Path("/data"), "test/part")
        simulated.disk.make_folder(Path("/data"))
        monkeypatch.setattr(module, "open_store", lambda *given, sim=simulated: Stepping(opened(*given), sim))
        simulated.crash_at = step
        committed: dict[int, Token] = {}
        try:
            with closing(cluster.sink().open(place, batch_of(1).schema)) as writer:  # closed as by the system
                live(writer, committed)
        except Crash:
            left_behind += bool(cluster.left())
        else:
            assert step > 20, "hardly any step was tried"
            assert left_behind > 5, "no crash has left a file behind"
            return
        simulated.boot()
        with closing(cluster.sink().open(place, batch_of(1).schema)) as writer:
            live(writer, committed)
        assert cluster.rows("value") == EXPECTED, f"died at step {step}"
        assert not cluster.left(), f"died at step {step}"


def test_a_transaction_whose_connection_was_lost_may_still_get_through(cluster: Cluster) -> None:
    place = world()
    cluster.put(values(1), place=place)
    books = RedshiftBookkeeping(place.name, cluster.schema, "t")
    with closing(cluster.sink().open(place, values(2).schema)) as writer:
        assert writer.published() == 1
        tokens = [writer.stage(epoch, [values(epoch)]) for epoch in (2, 3)]
        with cluster.server.server.connect() as lost, lost.transaction():
            books.lock(lost)
            lost.execute(f"insert into {cluster.schema}.t (value) values (2)")
            books.reach(lost, 2)
        with pytest.raises(Unavailable, match="has reached epoch 2 of"):
            writer.publish(3, tokens)
    with closing(cluster.sink().open(place, values(2).schema)) as again:
        assert again.published() == 2
        again.publish(3, tokens[1:])
    assert cluster.rows("value") == [(1,), (2,), (3,)]


def test_files_that_cannot_be_deleted_break_nothing_and_go_later(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    place = world()

    def away(files: Any) -> None:
        raise Unavailable("S3 is away")

    monkeypatch.setattr(files.LoadFiles, "sweep", away)
    cluster.put(values(1), place=place)
    assert "stay until the next one: S3 is away" in caplog.text
    assert cluster.left()
    monkeypatch.undo()
    cluster.put(values(2), place=place)
    assert not cluster.left()


def test_two_sinks_of_one_load_are_written_in_one_transaction(cluster: Cluster) -> None:
    places = {name: world(name=name) for name in ("a", "b")}
    sinks = {name: cluster.sink(table=f"{cluster.schema}.{name}", load="all") for name in places}
    joined = Sink.open_joined({name: (sinks[name], places[name], values(1).schema) for name in places})
    cluster.make(f"create table {cluster.schema}.b (value boolean)")
    token = joined.stage(1, {name: [values(1)] for name in places})
    joined.published()
    with pytest.raises(SinkError, match="has column 'value' as boolean"):
        joined.publish(1, [token])
    assert cluster.server.server.execute("select to_regclass(%s) is null", f"{cluster.schema}.a") == [(True,)]
    cluster.make(f"drop table {cluster.schema}.b")
    joined.publish(1, [token])
    assert cluster.rows("value", "a") == cluster.rows("value", "b") == [(1,)]
    joined.close()


# settings


def test_a_role_that_may_not_read_is_told(cluster: Cluster) -> None:
    with pytest.raises(SinkError, match="not authorized to assume IAM Role"):
        cluster.put(values(1), role=ROLE.replace("load", "other"))
    cluster.put(values(1), role="default")
    assert "iam_role default" in cluster.copies()[-1]


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"staging": "gs://bucket/folder"}, "s3://bucket/folder"),
        ({"staging": "s3://bucket/a folder"}, "s3://bucket/folder"),
        ({"staging": "s3://bucket/" + "x" * 200}, "s3://bucket/folder"),
        ({"role": "aws_access_key_id=x;aws_secret_access_key=y"}, "is no IAM role"),
        ({"slices": 0}, "greater than or equal to 1"),
        ({"table": "x" * 128}, "Redshift cannot name"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: Mapping[str, Any], word: str) -> None:
    right = {"url": "postgresql://db/plant", "table": "t", "staging": "s3://bucket", "role": "default"}
    with pytest.raises((ConfigError, ValueError, TocsinError), match=word):
        Sink.model_validate({**right, **settings})


def test_columns_that_redshift_would_take_for_one_or_cannot_hold_are_named() -> None:
    sink = Sink(url="postgresql://db/plant", table="t", staging="s3://bucket", role="default")
    with pytest.raises(SchemaError, match="two columns would be kept as 'speed'"):
        sink.accepts(pa.schema([("Speed", pa.float64()), ("speed", pa.float64())]))
    for type in (pa.duration("us"), pa.timestamp("ns"), pa.decimal256(39, 2)):
        with pytest.raises(SchemaError, match="Redshift cannot hold column 'odd'"):
            sink.accepts(pa.schema([("odd", type)]))
