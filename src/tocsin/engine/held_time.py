"""In which share of the last seconds something was held up."""

from __future__ import annotations

from collections import deque

WINDOW_S = 10.0


class HeldTime:
    """One thread says when it begins and ends to be held up, another asks for the share.

    Examples
    --------
    >>> held = HeldTime()
    >>> held.share(0.0)
    0.0
    >>> held.begin(1.0); held.end(3.0); held.begin(6.0)
    >>> held.share(8.0)  # 2 s, and 2 s up to now, of 8 s
    0.5
    """

    def __init__(self) -> None:
        self._ended_s = 0.0
        """All that is over, together."""
        self._since_s: float | None = None
        self._asked: deque[tuple[float, float]] = deque()
        """When the share was asked for, and the time held up until then; the first is at the window's begin."""

    def begin(self, now_s: float) -> None:
        self._since_s = now_s

    def end(self, now_s: float) -> None:
        if self._since_s is not None:
            self._ended_s += now_s - self._since_s
            self._since_s = None

    def share(self, now_s: float) -> float:
        """Returns the share (0 to 1) of the time since `WINDOW_S` ago, or since it was asked for first."""
        since_s = self._since_s
        total_s = self._ended_s + (now_s - since_s if since_s is not None else 0.0)
        self._asked.append((now_s, total_s))
        while len(self._asked) > 2 and self._asked[1][0] <= now_s - WINDOW_S:
            self._asked.popleft()
        first_s, before_s = self._asked[0]
        return min(max((total_s - before_s) / (now_s - first_s), 0.0), 1.0) if now_s > first_s else 0.0
