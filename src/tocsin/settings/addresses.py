"""Which addresses of this computer others can reach."""

from __future__ import annotations

import ipaddress


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
