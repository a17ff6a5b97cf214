"""The roles of those who use the page and its API, least first; each may do what those before it may."""

from __future__ import annotations

VIEWER = "viewer"
"""Sees machines, alarms and their past."""
OPERATOR = "operator"
"""Also acts on alarms as a shift does: acknowledges, shelves, resets, labels."""
ENGINEER = "engineer"
"""Also asks the tables with SQL, and changes what is watched: suppression, service, what counts as normal."""
ADMIN = "admin"
"""Also reads the audit."""
ROLES = (VIEWER, OPERATOR, ENGINEER, ADMIN)


def reaches(role: str, needed: str) -> bool:
    """Returns whether a role may do what ``needed`` asks for; a role that is none may do nothing.

    Examples
    --------
    >>> [reaches(role, OPERATOR) for role in ("viewer", "operator", "admin", "", "root")]
    [False, True, True, False, False]
    """
    return role in ROLES and ROLES.index(role) >= ROLES.index(needed)
