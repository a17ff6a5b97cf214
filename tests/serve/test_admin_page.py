"""Who may what, on the page: admins see accounts, tokens and the audit with the check of its chain; nobody else."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from servers import free_port

from tocsin.engine.audit import Actor, write_down
from tocsin.serve import accounts as of_accounts
from tocsin.serve.access import Address
from tocsin.serve.accounts import Accounts
from tocsin.serve.admin import ROWS, report
from tocsin.serve.app import Running, start

pytestmark = pytest.mark.timeout(120)
WAIT_MS = 20_000
PASSWORD = "correct horse battery"
HOUR_US = 3_600_000_000


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An admin, a viewer, and two tokens of which one has expired."""
    monkeypatch.setattr(of_accounts, "_N", 2**10)
    accounts, now_us = Accounts(tmp_path), time.time_ns() // 1000
    accounts.add("ann", "admin", PASSWORD)
    accounts.add("vic", "viewer", PASSWORD)
    accounts.add_token("grafana", "viewer", now_us + HOUR_US)
    accounts.add_token("old", "operator", now_us - HOUR_US)
    return tmp_path


@pytest.fixture
def page(state: Path) -> Iterator[Running]:
    running = start(state, address=Address(port=free_port(), has_accounts=True))
    yield running
    running.stop()


def change_a_row(state: Path, number: int) -> None:
    with closing(sqlite3.connect(state / "actions.db")) as db, db:
        db.execute("update audit set details = 'admin' where number = ?", (number,))


def test_it_lists_all_with_their_role_and_expiry_and_checks_the_whole_chain(state: Path) -> None:
    told = report(state)
    assert [(one.name, one.kind, one.role, one.is_expired) for one in told.entries] == [
        ("ann", "account", "admin", False),
        ("grafana", "token", "viewer", False),
        ("old", "token", "operator", True),
        ("vic", "account", "viewer", False),
    ]
    assert [one.expires is None for one in told.entries] == [True, False, False, True]
    assert (told.rows, told.fault, [row.number for row in told.audit]) == (4, "", [4, 3, 2, 1])
    assert told.head.startswith("4:")
    for i in range(ROWS):
        write_down(state, Actor("ann", "admin", "page"), "signed_in", str(i))
    change_a_row(state, 2)
    told = report(state)
    assert (len(told.audit), told.fault[:17]) == (ROWS, "row 2 was changed"), "also of a row that is not listed"


def test_where_nobody_has_done_anything_there_is_nothing(tmp_path: Path) -> None:
    told = report(tmp_path)
    assert (told.entries, told.audit, told.rows, told.fault) == ([], [], 0, "")
    (tmp_path / "actions.db").write_bytes(b"no database" * 1000)
    assert "bring it back from a backup" in report(tmp_path).fault


def signed_in(browser: Any, page: Running, name: str) -> Any:
    view = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
    view.goto(page.url)
    view.wait_for_selector("#sign-in[open]", timeout=WAIT_MS)
    view.fill("#name", name)
    view.fill("#password", PASSWORD)
    view.click("#sign-in button[type=submit]")
    view.wait_for_selector("#sign-out:visible", timeout=WAIT_MS)
    return view


def test_an_admin_sees_it_on_the_page_and_a_viewer_does_not(browser: Any, page: Running, state: Path) -> None:
    view = signed_in(browser, page, "ann")
    view.click("#open-admin")
    view.wait_for_selector("#admin-entries tr", timeout=WAIT_MS)
    rows = view.locator("#admin-entries tr").all_inner_texts()
    assert [row.split("\t")[:3] for row in rows][:2] == [["ann", "account", "admin"], ["grafana", "token", "viewer"]]
    assert "(expired)" in rows[2]
    assert "as written" in view.locator("#admin-said").inner_text()
    first = view.locator("#admin-audit tr").first.inner_text()
    assert "ann, admin" in first
    assert "signed in" in first
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is missing")
    wrong = axe.Axe().run(view, context="#admin").response["violations"]
    assert [one["id"] for one in wrong if one["impact"] in ("serious", "critical")] == []
    view.click("#close-admin")
    change_a_row(state, 2)
    view.click("#open-admin")
    view.wait_for_selector("#admin-said.error", timeout=WAIT_MS)
    assert "row 2 was changed" in view.locator("#admin-said").inner_text()

    other = signed_in(browser, page, "vic")
    assert other.locator("#open-admin").is_hidden()
    assert other.evaluate("fetch('/api/access').then((answer) => answer.status)") == 403
