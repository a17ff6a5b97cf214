"""What has contributed to a verdict, in words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tocsin.batch import Floats


def in_words(names: Sequence[str], contributions: Floats | Sequence[float], count: int = 3) -> str:
    """Returns what raises a verdict most, as shares of all that raises it; an empty text if nothing does.

    Contributions may have any unit; what lowers the verdict, or is no number, has no share.

    Examples
    --------
    >>> in_words(["vibration", "temperature", "load"], [3.1, 1.9, -2.0])
    'vibration 62 %, temperature 38 %'
    """
    raising = np.maximum(np.nan_to_num(np.asarray(contributions, np.float64)), 0.0)
    shares = raising / (raising.sum() or 1.0)
    order = np.argsort(-shares, kind="stable")[:count]
    return ", ".join(f"{names[i]} {100 * shares[i]:.0f} %" for i in order if shares[i] >= 0.005)
