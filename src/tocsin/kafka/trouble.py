"""What the client library reports, as one sentence that says what to do."""

from __future__ import annotations

import re
from typing import Any

from tocsin.errors import ForeignCommit, SinkError, SourceError, Unavailable
from tocsin.kafka.settings import ClusterSettings

_REFUSED = {
    "_AUTHENTICATION": "refuses user '{user}' ({text}); correct user, password and mechanism",
    "SASL_AUTHENTICATION_FAILED": "refuses user '{user}' ({text}); correct user, password and mechanism",
    "UNSUPPORTED_SASL_MECHANISM": "does not take {mechanism} ({text}); set another mechanism",
    "_SSL": "cannot be spoken to by TLS ({text}); correct the certificates in tls",
    "TOPIC_AUTHORIZATION_FAILED": "does not let user '{user}' use the topic ({text}); give it the right to",
    "GROUP_AUTHORIZATION_FAILED": "does not let user '{user}' use the group ({text}); give it the right to",
    "TRANSACTIONAL_ID_AUTHORIZATION_FAILED": "does not let user '{user}' write in transactions ({text}); give it the "
    "right to",
    "CLUSTER_AUTHORIZATION_FAILED": "does not let user '{user}' do this ({text}); give it the right to",
    "INVALID_SESSION_TIMEOUT": "does not take our session_timeout ({text}); set one from 6 s to 30 min",
    "_FATAL": "has ended our session ({text})",
}
"""What does not pass by waiting, by the error's name."""
_ALERT = re.compile(r"SSL alert number (40|42|43|44|45|46|48|49|116)\b")
"""Of RFC 8446, section 6.2: those that are about a certificate."""
_FENCED = {"FENCED_INSTANCE_ID", "_FENCED", "INVALID_PRODUCER_EPOCH", "PRODUCER_FENCED", "UNRELEASED_INSTANCE_ID"}


def name_of(error: Any) -> str:
    """Return the library's name of an error, as ``_ALL_BROKERS_DOWN`` (with a line before it: found by the client)."""
    return str(error.name())


def is_fenced(error: Any) -> bool:
    """Return whether somebody else has taken our name at the cluster."""
    return name_of(error) in _FENCED or "fenced by other" in str(error.str())


def is_refusal(error: Any) -> bool:
    """Return whether waiting will not help."""
    return is_fenced(error) or name_of(error) in _REFUSED or bool(error.fatal() or _is_alert(error))


def _is_alert(error: Any) -> bool:
    """Return whether the other side has ended TLS because of our certificate: that is told as a lost connection."""
    return _ALERT.search(str(error.str())) is not None


def refusal_of_source(settings: ClusterSettings, error: Any, member: str) -> SourceError:
    """Return the sentence for what does not pass by waiting; ``member`` is the file with our name in the group."""
    if is_fenced(error):
        return SourceError(
            f"another process reads from {settings.cluster} under our name: a data folder was copied, or runs twice; "
            f"stop one of them, and delete {member} in a copy"
        )
    return SourceError(_sentence(settings, error))


def refusal_of_sink(settings: ClusterSettings, error: Any, name: str) -> SinkError:
    """Return the sentence for what does not pass by waiting; ``name`` is ours at the cluster."""
    if is_fenced(error):
        return ForeignCommit(
            f"another process writes to {settings.cluster} as '{name}': a data folder was copied, or runs twice; stop "
            "one of them, and give a copy another name"
        )
    return SinkError(_sentence(settings, error))


def away(settings: ClusterSettings, reason: str) -> Unavailable:
    """Return the sentence for what may pass."""
    return Unavailable(f"{settings.cluster} does not answer ({reason})")


def _sentence(settings: ClusterSettings, error: Any) -> str:
    told = _REFUSED["_SSL"] if _is_alert(error) else _REFUSED.get(name_of(error), "refuses ({text})")
    text = str(error.str()).removesuffix(".")
    return f"{settings.cluster} " + told.format(user=settings.user or "", mechanism=settings.mechanism, text=text)
