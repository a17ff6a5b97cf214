"""Trouble with what is written to, in one sentence with its remedy."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

from tocsin.errors import DiskTrouble, SourceMissing

_FORBIDDEN = (errno.EACCES, errno.EPERM)
_NO_FOLDER = (errno.ENOTDIR, errno.EEXIST)
_SQLITE_FORBIDDEN = ("readonly database", "unable to open database")


def waiting_is_vain(error: Exception) -> bool:
    """Returns whether it stays as it is until somebody does something about it."""
    if isinstance(error, sqlite3.Error):
        return any(text in str(error) for text in _SQLITE_FORBIDDEN)
    if isinstance(error, SourceMissing):
        return True
    return isinstance(error, OSError) and error.errno in (*_FORBIDDEN, *_NO_FOLDER, errno.EROFS)


def disk_trouble(error: OSError | sqlite3.Error, folder: Path) -> DiskTrouble:
    """Returns the trouble as a sentence; ``folder`` is where it was, if the error does not say."""
    if isinstance(error, sqlite3.Error):
        place, said = folder / "checkpoints.db", str(error)
        number = errno.EACCES if waiting_is_vain(error) else errno.EIO
    else:
        place, said = Path(error.filename or folder), error.strerror or str(error)
        number = error.errno or errno.EIO
    if number in _FORBIDDEN:
        return DiskTrouble(
            f"{place} cannot be written: {said}; {_remedy(place)}, or write elsewhere: --set folder=PATH"
        )
    if number == errno.EROFS:
        return DiskTrouble(
            f"{place} cannot be written: {said}; mount it so that it can be, or write elsewhere: --set folder=PATH"
        )
    if number in _NO_FOLDER:
        there = next((p for p in (place, *place.parents) if p.exists() and not p.is_dir()), place)
        return DiskTrouble(f"{there} is no folder; move that file away, or write elsewhere: --set folder=PATH")
    return DiskTrouble(f"{place}: {said}; nothing committed is lost: look after the disk, then start again")


def _remedy(place: Path) -> str:
    """What lets this user write there: the folder that there is, or the file in it, must be theirs."""
    there = next(path for path in (place, *place.absolute().parents) if path.exists())
    refused = there if not os.access(there, os.W_OK) else there.parent
    return f"let the user with id {os.geteuid()}, who runs this, write there (chown or chmod u+w {refused})"
