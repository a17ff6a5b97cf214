"""The Delta Lake protocol, as much of it as a table that one engine appends to needs.

Written over `effects.Disk`, so that it can be simulated and crashed at every step; held against delta-rs by the tests.
"""

from tocsin.delta.log import Action, Log, Snapshot

__all__ = ["Action", "Log", "Snapshot"]
