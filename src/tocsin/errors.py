"""The errors that tocsin raises, as one tree, and the sentence each of them owes its reader.

TocsinError
├── ConfigError          a pipeline, or a setting in it, is wrong: names the place and the remedy
│   ├── UnknownName      no such component, column, stream ...: says what is close
│   └── SchemaError      a step's input lacks a column or has the wrong type
├── MissingExtra         an optional library is not installed: says which extra brings it
├── SourceError          a source cannot be read: file gone, broker refuses, certificate expired
├── SinkError            a sink cannot be written
│   ├── ForeignCommit    a table was restored, or another engine writes it under our name
│   └── Unwritten        the run has ended, but rows still wait for a sink that is away
├── Unavailable          (SourceError and SinkError) the other side is away: not now, rather than not ever
├── DeliveryError        a message could not be delivered now; it stays in the outbox
│   └── Undelivered      the run has ended, but messages still wait for a channel that does not take them
└── StateError           the state folder
    ├── AlreadyRunning   another process holds it
    ├── CorruptState     a checksum does not match
    ├── StateMismatch    a step or a sink was changed, and would forget what it knows
    ├── DiskTrouble      a folder cannot be written: not allowed, read-only, no folder at all, a disk that fails
    └── DurabilityError  fsync failed: nothing written since the last checkpoint can be trusted
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from difflib import get_close_matches


class TocsinError(Exception):
    """Base of all expected trouble. Its text is one clear sentence, fit to be shown to a user."""


class ConfigError(TocsinError):
    """A pipeline, or one setting in it, is wrong."""


class UnknownName(ConfigError):
    """A name that does not exist.

    Examples
    --------
    >>> print(UnknownName("step", "zscor", ["zscore", "window"]))
    there is no step 'zscor'; did you mean 'zscore'? There are: window, zscore
    """

    def __init__(self, what: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        close = get_close_matches(name, names, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else "."
        super().__init__(f"there is no {what} '{name}'{hint} There are: {', '.join(names) or 'none'}")


class SchemaError(ConfigError):
    """What reaches a step is not what it needs."""


class MissingExtra(ConfigError):
    """An optional library is not installed."""

    def __init__(self, library: str, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs {library}; install it with: pip install 'tocsin[{extra}]'")


class SourceError(TocsinError):
    """A source cannot be read."""


class SourceMissing(SourceError):
    """What a source reads is not there, and somebody has to do something about it: trying again is vain."""


class SinkError(TocsinError):
    """A sink cannot be written."""


class Unavailable(SourceError, SinkError):
    """The other side is away or busy: not now, rather than not ever. The runner waits for it; the others go on."""

    def __init__(self, sentence: str, retry_after_s: float = 0.0) -> None:
        super().__init__(sentence)
        self.retry_after_s = retry_after_s
        """How long the other side asked us to wait; 0 where it did not say."""


class ForeignCommit(SinkError):
    """A table's position is not the one that the last checkpoint left."""


class NothingKept(TocsinError):
    """The sources have ended, and all that they held was set aside."""


class Unwritten(SinkError):
    """The sources have ended, but rows wait on disk for a sink that is away."""


class DeliveryError(TocsinError):
    """A message could not be delivered now; it stays in the outbox and is tried again."""

    def __init__(self, sentence: str, delivered: Collection[str] = ()) -> None:
        super().__init__(sentence)
        self.delivered = delivered
        """Ids of the messages that were delivered all the same: they are not tried again."""


class Undelivered(DeliveryError):
    """The sources have ended, but messages wait in the outbox for a channel that does not take them."""


class StateError(TocsinError):
    """The state folder cannot be used."""


class AlreadyRunning(StateError):
    """Another process holds the state folder."""


class CorruptState(StateError):
    """A checksum does not match what was written."""


class StateMismatch(StateError):
    """A change would make a step or a sink forget what it knows; says which, and how to agree."""


class DiskTrouble(StateError):
    """What is to be written cannot be; says where, why, and what to do about it."""


class DurabilityError(StateError):
    """An fsync failed: the operating system may have dropped what was written."""
