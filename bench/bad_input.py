"""CPU time that each kind of bad input costs, with six good rows beside it.

python bench/bad_input.py
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from bad_inputs import CASES


def main() -> None:
    slowest, wrong = 0.0, 0
    for case in CASES:
        times = []
        for _ in range(4):
            begin = time.process_time()
            _, rejected = case.run()
            times.append(1000 * (time.process_time() - begin))
        found = rejected[0]["reason"] if rejected else None
        wrong += found != case.reason
        slowest = max(slowest, min(times[1:]))
        print(f"{case.number:3} {case.kind:5} {case.what:45} {found or 'kept':15} {min(times[1:]):7.2f} ms")
    print(json.dumps({"cases": len(CASES), "wrong": wrong, "slowest_ms": round(slowest, 2)}))


if __name__ == "__main__":
    main()
