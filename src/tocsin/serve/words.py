"""The words of `domain.alarms` and the schema of `serve.messages` as a JavaScript module, which the page imports.

Nothing of it is written a second time in the page's own files: a new state, action, severity or field is there at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from tocsin.domain.alarms import OPERATOR_ACTIONS, SEVERITIES, STATES
from tocsin.domain.roles import ROLES
from tocsin.serve import graph_messages, messages

RECEIVED = (
    messages.SessionInfo,
    messages.Machines,
    messages.Glances,
    messages.Alarms,
    messages.MachineHistory,
    messages.Figures,
    messages.Changes,
    messages.NewPoints,
    messages.Evidence,
    messages.People,
    messages.Lanes,
    messages.Spectra,
    messages.KeyFigures,
    messages.QueryAnswer,
    messages.AccessReport,
    graph_messages.PipelineState,
    graph_messages.PartDetails,
    graph_messages.PartRows,
)
"""What a browser receives, and checks."""


def words() -> Mapping[str, Any]:
    """Returns what the module exports, by name."""
    _, schemas = msgspec.json.schema_components(RECEIVED, ref_template="{name}")
    return {
        "STATES": dict(STATES),
        "SEVERITIES": SEVERITIES,
        "ROLES": ROLES,
        "ACTIONS": [action for action in OPERATOR_ACTIONS if action.label],
        "SCHEMAS": schemas,
    }


def module() -> bytes:
    """Returns the module's text."""
    lines = [b"export const %s = %s;\n" % (name.encode(), msgspec.json.encode(v)) for name, v in words().items()]
    return b"// Made by tocsin.serve.words.\n" + b"".join(lines)
