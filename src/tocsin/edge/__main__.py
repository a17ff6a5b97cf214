"""Run it without the rest of tocsin: tocsin-edge edge.json, or python -m tocsin.edge edge.json"""

from __future__ import annotations

import sys

from tocsin.edge.device import run
from tocsin.errors import TocsinError


def main() -> None:
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    try:
        run(sys.argv[1])
    except TocsinError as error:
        raise SystemExit(f"tocsin: {error}") from None


if __name__ == "__main__":
    main()
