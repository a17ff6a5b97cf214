"""Addresses: which of this computer others can reach, and which must not be shown."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from urllib.parse import urlsplit

_WITH_PASSWORD = re.compile(r"://[^@]*:[^@]*@")


def is_local(host: str) -> bool:
    """Returns whether only this computer can reach a listener at this name or address.

    Examples
    --------
    >>> [is_local(host) for host in ("localhost", "127.0.0.1", "::1", "0.0.0.0", "plant.example")]
    [True, True, True, False, False]
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def without_password(address: str) -> str:
    """Return the address; `ValueError`, which does not show it, where it holds a password.

    Examples
    --------
    >>> without_password("abfss://container@account.dfs.core.windows.net/readings")
    'abfss://container@account.dfs.core.windows.net/readings'
    >>> without_password("s3://key:secret@bucket/readings")
    Traceback (most recent call last):
        ...
    ValueError: a password does not belong in an address: everyone sees it who sees the address
    """
    if _WITH_PASSWORD.search(address):
        raise ValueError("a password does not belong in an address: everyone sees it who sees the address")
    return address


def is_server(address: str, schemes: Collection[str]) -> bool:
    """Return whether an address is one of a server and of nothing else: scheme, host, and perhaps port and path.

    Examples
    --------
    >>> [is_server(a, ("http", "https")) for a in ("http://host:8086", "https://me@host", "http://host:x", "host")]
    [True, False, False, False]
    """
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        return False
    odd = "@" in address or parts.query or parts.fragment or port == 0
    return parts.scheme in schemes and bool(parts.hostname) and not odd


def http_server(address: str, port: int) -> str:
    """Return the address of a web server without a slash at its end; ``port`` is the one to name in the remedy.

    Raises
    ------
    ValueError
        It holds a user or password, or is no such address; it is not shown then.

    Examples
    --------
    >>> http_server("https://influx.example:8086/", 8086)
    'https://influx.example:8086'
    """
    if "@" in address:
        raise ValueError("user and password do not belong in the url; give them as the settings user and password")
    if not is_server(address, ("http", "https")):
        raise ValueError(f"this is not the address of a server; write http://host:{port} or https://host:{port}")
    return address.rstrip("/")
