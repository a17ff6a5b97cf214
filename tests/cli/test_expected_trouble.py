"""Trouble that is to be expected ends in one sentence; what it advises is done here, and works."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from press import give, rows, tocsin, unprivileged

from tocsin.cli import main
from tocsin.engine.checkpoint import SqliteStore
from tocsin.errors import AlreadyRunning


@pytest.fixture
def press(tmp_path: Path) -> Iterator[Path]:
    give(tmp_path, 100)
    yield tmp_path
    for place, _, _ in os.walk(tmp_path):
        os.chmod(place, 0o755)


@pytest.mark.skipif(os.geteuid() == 0 and shutil.which("setpriv") is None, reason="root needs setpriv to be refused")
@pytest.mark.parametrize("where", ["lake", "lake/.state", "lake/readings"])
def test_a_folder_that_may_not_be_written_to(press: Path, where: str) -> None:
    (press / where).mkdir(parents=True)
    os.chmod(press / where, 0o555)
    said = unprivileged("run", press / "p.yaml", code=1)
    assert len(said.splitlines()) == 1
    assert "Permission denied" in said
    tocsin("run", press / "p.yaml", "--set", f"folder={press}/elsewhere")  # one remedy
    assert rows(press / "elsewhere") == 100
    advice = re.search(r"chmod u\+w (\S+)\)", said)  # and the other
    assert advice is not None
    subprocess.run(["chmod", "u+w", advice[1]], check=True)
    tocsin("run", press / "p.yaml")
    assert rows(press / "lake") == 100


def test_a_file_where_the_folder_should_be(press: Path) -> None:
    (press / "lake").touch()
    said = tocsin("run", press / "p.yaml", code=1)
    assert f"{press}/lake is no folder; move that file away" in said
    (press / "lake").rename(press / "moved")
    tocsin("run", press / "p.yaml")
    assert rows(press / "lake") == 100


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_a_read_only_first_start(press: Path) -> None:
    (press / "lake").mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", press / "lake"], check=False)
    if mounted.returncode:
        pytest.skip("nothing can be mounted here")
    try:
        said = tocsin("run", press / "p.yaml", code=1)
        assert "Read-only file system; mount it so that it can be" in said
        subprocess.run(["mount", "-o", "remount,rw", press / "lake"], check=True)
        tocsin("run", press / "p.yaml")
        assert rows(press / "lake") == 100
    finally:
        subprocess.run(["umount", "-l", press / "lake"], check=True)


@pytest.mark.skipif(os.geteuid() == 0 and shutil.which("setpriv") is None, reason="root needs setpriv to be refused")
def test_a_file_that_may_not_be_read(press: Path) -> None:
    os.chmod(press / "1.ndjson", 0)
    said = unprivileged("run", press / "p.yaml", code=1)
    assert "1.ndjson cannot be read: Permission denied; let who runs this read it" in said
    os.chmod(press / "1.ndjson", 0o400)
    tocsin("run", press / "p.yaml")
    assert rows(press / "lake") == 100


@pytest.mark.parametrize("deleted", [False, True])
def test_a_second_engine_is_refused_even_if_the_lock_file_was_deleted(tmp_path: Path, deleted: bool) -> None:
    first = SqliteStore(tmp_path)
    if deleted:
        (tmp_path / "lock").unlink()
    who = "another process, whose lock file was deleted" if deleted else f"process {os.getpid()}"
    for _ in range(2):
        with pytest.raises(AlreadyRunning, match=f"in use by {who}; stop that one, or give this pipeline another"):
            SqliteStore(tmp_path)
    first.close()
    SqliteStore(tmp_path).close()  # it was stopped


def test_a_deleted_data_file_is_named_and_the_table_goes_on_without_it(press: Path) -> None:
    tocsin("run", press / "p.yaml")
    give(press, 50)
    tocsin("run", press / "p.yaml")
    newest = max((press / "lake" / "readings").glob("*.parquet"), key=lambda path: path.stat().st_mtime_ns)
    data = newest.read_bytes()
    newest.unlink()
    give(press, 100)
    said = unprivileged("run", press / "p.yaml")  # what comes is kept all the same
    lacking = f"has lost data files that its log lists, with 50 rows: {newest}; bring them back from a backup"
    assert lacking in said
    query = ("query", "select count(*) as n from readings", "--folder", press / "lake")
    assert lacking in tocsin(*query, code=1)
    newest.write_bytes(data)  # one remedy
    assert rows(press / "lake") == 250
    newest.unlink()
    advice = re.search(r"go on without them: tocsin (.*)", tocsin(*query, code=1))  # and the other
    assert advice is not None
    done = CliRunner().invoke(main, shlex.split(advice[1]))
    assert f"{newest.name}: gone, with 50 rows" in done.stderr
    assert rows(press / "lake") == 200
    give(press, 100)
    assert "lost" not in tocsin("run", press / "p.yaml")
    assert rows(press / "lake") == 300


def test_a_damaged_data_file_is_named_and_the_table_goes_on_without_it(press: Path) -> None:
    tocsin("run", press / "p.yaml")
    (file,) = (press / "lake" / "readings").glob("*.parquet")
    file.write_bytes(bytes(100))
    with pytest.raises(Exception, match="damaged") as told:
        rows(press / "lake")
    assert "delete it" in str(told.value)
    file.unlink()
    advice = re.search(r"its rows: tocsin (.*)", str(told.value))
    assert advice is not None
    assert CliRunner().invoke(main, shlex.split(advice[1])).exit_code == 0
    assert rows(press / "lake") == 0
