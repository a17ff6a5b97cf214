"""The store of models: ``models/NAME/VERSION/`` with a manifest, ONNX and JSON; and which version is the champion.

Versions are never changed once they are there. Which one those who infer follow stands in ``champion.json``, which is
replaced in one step, so whoever reads sees the one before or the one after; each step is durable before it is told.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tocsin import __version__
from tocsin.errors import ConfigError, CorruptState, UnknownName
from tocsin.models.manifest import MANIFEST, Manifest, check_file

CHAMPION = "champion.json"
FOLDER = Path("models")
"""Where models are kept unless told otherwise."""


class Store:
    """The models in a folder.

    Examples
    --------
    >>> import tempfile
    >>> store = Store(Path(tempfile.mkdtemp()))
    >>> draft = Manifest("pump", "forecaster", ("load",), "load", metrics={"rmse": 2.0},
    ...                  baselines={"persistence": {"rmse": 3.0}})
    >>> store.add(draft, {"model.onnx": b"..."}).version
    1
    >>> store.promote("pump", 1)
    >>> store.champion("pump")
    1
    """

    def __init__(self, folder: Path | str = FOLDER) -> None:
        self.folder = Path(folder)

    def names(self) -> Sequence[str]:
        """Returns the models that there are, by name."""
        if not self.folder.is_dir():
            return ()
        return sorted(path.name for path in self.folder.iterdir() if path.is_dir() and self.versions(path.name))

    def versions(self, name: str) -> Sequence[int]:
        """Returns the versions of a model, oldest first; none if there is no such model."""
        folder = self.folder / name
        return sorted(int(path.name) for path in folder.iterdir() if path.name.isdigit()) if folder.is_dir() else ()

    def place(self, name: str, version: int) -> Path:
        """Returns the folder of a version; `UnknownName` if there is none."""
        if not (versions := self.versions(name)):
            raise UnknownName("model", name, self.names())
        if version not in versions:
            raise ConfigError(f"model {name} has no version {version}; there are: {', '.join(map(str, versions))}")
        return self.folder / name / str(version)

    def champion(self, name: str) -> int | None:
        """Returns the version that those who infer follow; None if none was promoted yet."""
        return self._history(name)[-1] if self._history(name) else None

    def stamp(self, name: str) -> int:
        """Returns a number that changes whenever another version is promoted; cheap enough for every batch (2 µs)."""
        try:
            status = (self.folder / name / CHAMPION).stat()
        except FileNotFoundError:
            return 0
        return hash((status.st_ino, status.st_mtime_ns))

    def followed(self, name: str) -> Manifest:
        """Returns the champion's manifest; `ConfigError` that tells how to make or promote one, if there is none."""
        if not (versions := self.versions(name)):
            raise ConfigError(
                f"there is no model '{name}' in {self.folder.absolute()}; make it first: tocsin train FILE"
            )
        if (version := self.champion(name)) is None:
            raise ConfigError(
                f"no version of model '{name}' was promoted; look at them (tocsin models list --store {self.folder}), "
                f"then: tocsin models promote {name} {versions[-1]} --store {self.folder}"
            )
        return self.show(name, version)

    def show(self, name: str, version: int | None = None) -> Manifest:
        """Returns the manifest of a version, or of the newest; its files are not looked at."""
        place = self.place(name, version if version is not None else (self.versions(name) or (0,))[-1])
        try:
            text = (place / MANIFEST).read_bytes()
        except FileNotFoundError as error:
            raise CorruptState(
                f"{place} has no {MANIFEST}; delete the folder, or bring it back from a backup"
            ) from error
        return Manifest.from_json(text, str(place / MANIFEST))

    def files(self, name: str, version: int) -> Mapping[str, bytes]:
        """Returns the files of a version by their names, after they were held against the manifest's digests."""
        manifest, place = self.show(name, version), self.place(name, version)
        files = {path.name: path.read_bytes() for path in sorted(place.iterdir()) if path.name != MANIFEST}
        manifest.check_files(files, str(place))
        return files

    def add(self, draft: Manifest, files: Mapping[str, bytes]) -> Manifest:
        """Keep a new version with these files (ONNX and JSON); it is not promoted.

        Returns its manifest, with version, time, digests and signature in it.
        """
        for name in files:
            check_file(name)
        folder = self.folder / draft.name
        folder.mkdir(parents=True, exist_ok=True)
        manifest = replace(
            draft,
            code=draft.code or __version__,
            created=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
            files={name: hashlib.sha256(content).hexdigest() for name, content in sorted(files.items())},
        )
        with self._locked(draft.name):
            manifest = replace(manifest, version=(self.versions(draft.name) or (0,))[-1] + 1).signed()
            new = folder / f".new-{secrets.token_hex(8)}"
            new.mkdir()
            try:
                for name, content in {**files, MANIFEST: manifest.to_json().encode()}.items():
                    _write(new / name, content)
                _sync_folder(new)
                new.rename(folder / str(manifest.version))
            finally:
                shutil.rmtree(new, ignore_errors=True)
            _sync_folder(folder)
        return manifest

    def promote(self, name: str, version: int, *, force: bool = False) -> None:
        """Make a version the champion, after its files were held against their digests.

        `ConfigError` where it does not beat its baseline, unless ``force``.
        """
        manifest = self.show(name, version)
        self.files(name, version)
        if not manifest.is_better and not force:
            raise ConfigError(f"{manifest.verdict()}; promote it all the same with --force")
        with self._locked(name):
            history = self._history(name)
            if history[-1:] != [version]:
                self._point(name, [*history, version])

    def rollback(self, name: str) -> int:
        """Make the champion before this one the champion again; returns it."""
        with self._locked(name):
            history = self._history(name)
            if len(history) < 2:
                raise ConfigError(f"model {name} has no champion before this one to roll back to")
            self.files(name, history[-2])
            self._point(name, history[:-1])
            return history[-2]

    def diff(self, name: str, one: int, other: int) -> Mapping[str, tuple[Any, Any]]:
        """Returns what differs between two versions: by its place in the manifest, what each of them says."""
        left, right = (_flat(asdict(self.show(name, version))) for version in (one, other))
        places = sorted((left.keys() | right.keys()) - {"version", "created", "signature"})
        return {at: (left.get(at), right.get(at)) for at in places if left.get(at) != right.get(at)}

    def _history(self, name: str) -> list[int]:
        """The champions in the order in which they were promoted; the last is the present one."""
        path = self.folder / name / CHAMPION
        try:
            history = json.loads(path.read_bytes())["history"]
        except FileNotFoundError:
            return []
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptState(f"{path} cannot be read ({error}); delete it, then promote a version again") from error
        return [int(version) for version in history]

    def _point(self, name: str, history: Sequence[int]) -> None:
        """Replace the pointer in one step, and make that durable."""
        path = self.folder / name / CHAMPION
        new = path.with_name(f".{CHAMPION}-{secrets.token_hex(8)}")
        _write(new, json.dumps({"champion": history[-1], "history": list(history)[-100:]}).encode())
        os.replace(new, path)
        _sync_folder(path.parent)

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        """Only one at a time adds and promotes; those who read never wait."""
        if not (self.folder / name).is_dir():
            raise UnknownName("model", name, self.names())
        with open(self.folder / name / ".lock", "wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _flat(tree: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{before}{key}.") if isinstance(value, Mapping) else {f"{before}{key}": value}
    return flat


def _write(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
