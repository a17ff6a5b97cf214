"""What tocsin is delivered with: a lock of the versions it was tested with, a bill of materials, a report of licences.

    python tools/supply.py constraints > constraints.txt    # name==version of all that was installed, for pip -c
    python tools/supply.py locked kafka > requirements.txt  # what tocsin[kafka] needs, with hashes
    python tools/supply.py sbom > tocsin.cdx.json           # CycloneDX 1.5, with a digest of what was installed
    python tools/supply.py licences                         # one line a library; fails on one that is not known

It looks at the environment that it runs in, and fetches nothing.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from hashlib import sha256
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

NAME = "tocsin"
LOCKED = Path(__file__).parent.parent / "locked.txt"
"""All that is in `constraints.txt` with the hashes of its files, as `uv pip compile` writes it."""
PERMISSIVE = re.compile(
    r"\b(MIT|BSD|Apache|ISC|PSF|Python Software Foundation|MPL|Mozilla|Zlib|Unlicense|0BSD|CC0)\b", re.IGNORECASE
)
"""Licences under which a library may be delivered beside a program of any licence."""


def needed(name: str = NAME, extras: frozenset[str] = frozenset()) -> dict[str, Distribution]:
    """Returns all that a distribution needs, and what that needs, by name; itself left out."""
    found: dict[str, Distribution] = {}
    todo = [(name, extras)]
    seen: set[tuple[str, frozenset[str]]] = set()
    while todo:
        one = todo.pop()
        if one in seen:
            continue
        seen.add(one)
        try:
            have = distribution(one[0])
        except PackageNotFoundError:
            raise SystemExit(f"{one[0]} is needed and not installed; run: pip install -e '.[test]'") from None
        if canonicalize_name(one[0]) != NAME:
            found[canonicalize_name(one[0])] = have
        for text in have.requires or ():
            wanted = Requirement(text)
            given = [{"extra": extra} for extra in (*one[1], "")]
            if wanted.marker is None or any(wanted.marker.evaluate(environment) for environment in given):
                todo.append((wanted.name, frozenset(wanted.extras)))
    return dict(sorted(found.items()))


def licence(have: Distribution) -> str:
    """Returns the licence as its distribution says it: an SPDX expression, a classifier, or a text's first words."""
    said = have.metadata
    if expression := said.get("License-Expression"):
        return str(expression)
    kinds = [c.rpartition("::")[2].strip() for c in said.get_all("Classifier") or () if c.startswith("License")]
    if kinds and kinds != ["OSI Approved"]:
        return ", ".join(sorted(kinds))
    shipped = [have.read_text(f"licenses/{name}") or "" for name in said.get_all("License-File") or ()]
    texts = [said.get("License") or "", *(" ".join(text.split())[:60] for text in shipped)]
    return next((line.strip() for text in texts for line in text.splitlines() if line.strip()), "not said")


def constraints() -> Iterator[str]:
    """Lines for ``pip install -c``: every library, those of the tests included, at the version installed here."""
    for name, have in needed(extras=frozenset({"test"})).items():
        yield f"{name}=={have.version}"


def locked(extras: frozenset[str]) -> Iterator[str]:
    """Lines for ``pip install --require-hashes -r``: what `NAME` with some extras needs, and the hashes it may have."""
    pins = dict(re.findall(r"^([a-z0-9-]+)(==.*?)(?=^[a-z0-9-]+==|\Z)", LOCKED.read_text(), re.DOTALL | re.MULTILINE))
    for name in needed(extras=extras):
        yield name + pins[name].rstrip()


def _component(name: str, have: Distribution) -> dict[str, Any]:
    """A library; the digest is of the hashes of all its files, as its RECORD has them."""
    hashes = sorted(f"{file} {file.hash.value}" for file in have.files or () if file.hash is not None)
    return {
        "type": "library",
        "name": name,
        "version": have.version,
        "purl": f"pkg:pypi/{name}@{have.version}",
        "licenses": [{"license": {"name": licence(have)}}],
        "properties": [{"name": "tocsin:files-sha256", "value": sha256("\n".join(hashes).encode()).hexdigest()}],
    }


def sbom() -> dict[str, Any]:
    """Returns the bill of materials of what users install: CycloneDX 1.5."""
    own = distribution(NAME)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": {"type": "application", "name": NAME, "version": own.version}},
        "components": [_component(name, have) for name, have in needed().items()],
    }


def licences() -> Iterator[tuple[str, str, str]]:
    """Name, version and licence of each library that users install."""
    for name, have in needed().items():
        yield name, have.version, licence(have)


def main(what: str, extras: frozenset[str]) -> int:
    """Write one of the reports to stdout; 1 where a licence is none that is known to be fit."""
    if what == "locked":
        print(*locked(extras), sep="\n")
        return 0
    if what == "constraints":
        print("# The versions that the tests were run with: pip install tocsin -c constraints.txt")
        print(*constraints(), sep="\n")
        return 0
    if what == "sbom":
        print(json.dumps(sbom(), indent=2))
        return 0
    unknown = 0
    for name, version, said in licences():
        fit = PERMISSIVE.search(said) is not None
        unknown += not fit
        print(f"{'' if fit else 'LOOK: '}{name} {version}: {said}")
    return min(unknown, 1)


if __name__ == "__main__":
    what, *rest = sys.argv[1:] or [""]
    if what not in ("constraints", "locked", "sbom", "licences") or (rest and what != "locked"):
        raise SystemExit(__doc__)
    raise SystemExit(main(what, frozenset(rest)))
