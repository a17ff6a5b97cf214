"""The tables: the Delta protocol, as much of it as a table that one engine appends to needs, and reading them.

Written over `world.Disk`, so that it can be simulated and crashed at every step; held against delta-rs by the tests.
"""
