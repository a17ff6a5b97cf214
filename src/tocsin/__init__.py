"""tocsin listens to machines while they run: what is abnormal, what has stopped, what will fail."""

from __future__ import annotations

__version__ = "0.1.0"
