"""What a JobManager is asked and told over HTTP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx

from tocsin.errors import Unavailable

TIMEOUT_S = 10.0


class Rest:
    """The REST API of one JobManager, by ``HOST:PORT``.

    Reference: Apache Flink 2.3, "REST API".
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._client = httpx.Client(base_url=f"http://{address}", timeout=TIMEOUT_S, trust_env=False)

    def slots(self) -> int:
        """Returns how many slots there are; 0 while nobody answers."""
        try:
            return int(self._get("/overview")["slots-total"])
        except Unavailable:
            return 0

    def overview(self) -> Mapping[str, Any]:
        """Returns TaskManagers, slots and jobs, counted."""
        return dict(self._get("/overview"))

    def jobs(self) -> list[Mapping[str, Any]]:
        """Returns all jobs, each with ``jid``, ``name`` and ``state``."""
        return list(self._get("/jobs/overview")["jobs"])

    def state(self, job: str) -> str | None:
        """Returns the state of a job (RUNNING, RESTARTING ...); None if it is not known here."""
        return next((str(one["state"]) for one in self.jobs() if one["jid"] == job), None)

    def trouble(self, job: str) -> tuple[int, str] | None:
        """Returns when a job failed last (ms since 1970) and why; None if it has not."""
        entries = self._get(f"/jobs/{job}/exceptions")["exceptionHistory"]["entries"]
        return (int(entries[0]["timestamp"]), str(entries[0]["stacktrace"])) if entries else None

    def cancel(self, job: str) -> None:
        """End a job; its last checkpoint stays."""
        self._ask("PATCH", f"/jobs/{job}?mode=cancel")

    def _get(self, path: str) -> Any:
        return self._ask("GET", path).json()

    def _ask(self, method: str, path: str) -> httpx.Response:
        try:
            answer = self._client.request(method, path)
        except httpx.HTTPError as error:
            raise Unavailable(
                f"the JobManager at {self.address} does not answer ({error}); start one with tocsin flink up, or give "
                "another address with --jobmanager"
            ) from error
        if answer.is_error:
            raise Unavailable(f"the JobManager at {self.address} refuses {path}: {answer.text[:300]}")
        return answer
