"""What AWS and its client library report: whether it passes, and a sentence that says what to do."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from tocsin.kinesis.settings import StreamSettings


class Kind(Enum):
    """What is to be done about it."""

    BUSY = "wait a little: more was asked of a shard or of the stream than it gives"
    AWAY = "wait: nobody answers, or what answers is broken"
    EXPIRED = "ask for a new iterator"
    UNKNOWN_POSITION = "the sequence number is not one of this shard"
    REFUSED = "waiting does not help"


class Trouble(NamedTuple):
    """What an error means."""

    kind: Kind
    sentence: str
    code: str = ""
    """Of AWS; empty for what the client library says itself."""


BUSY = frozenset(
    {
        "ProvisionedThroughputExceededException",
        "LimitExceededException",
        "KMSThrottlingException",
        "ThrottlingException",
        "Throttling",
        "RequestLimitExceeded",
    }
)
_CREDENTIALS = "refuses our credentials ({text}); correct AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the profile"
_EXPIRED = "says that our credentials have expired ({text}); get new ones"
_RIGHTS = "does not let us do this ({text}); give the user or role the right that is named there"
_KEY = "is encrypted with a key that cannot be used ({text}); correct the key in AWS KMS"
_REFUSED = {
    "ResourceNotFoundException": "is not there ({text}); make it, or correct stream, region and endpoint",
    "AccessDeniedException": _RIGHTS,
    "AccessDenied": _RIGHTS,
    "NotAuthorized": _RIGHTS,
    "UnrecognizedClientException": _CREDENTIALS,
    "InvalidClientTokenId": _CREDENTIALS,
    "InvalidSignatureException": _CREDENTIALS,
    "IncompleteSignature": _CREDENTIALS,
    "MissingAuthenticationTokenException": _CREDENTIALS,
    "ExpiredTokenException": _EXPIRED,
    "ExpiredToken": _EXPIRED,
    "KMSAccessDeniedException": _KEY,
    "KMSDisabledException": _KEY,
    "KMSInvalidStateException": _KEY,
    "KMSNotFoundException": _KEY,
}
"""What does not pass by waiting, by AWS's code."""


def trouble(settings: StreamSettings, error: Exception) -> Trouble | None:
    """Return what an error of the client library means; None for one that is not the library's."""
    from botocore import exceptions as known

    place = settings.address
    if isinstance(error, known.ClientError):
        return _answered(place, error)
    if isinstance(error, known.SSLError):
        return Trouble(Kind.REFUSED, f"{place} cannot be spoken to by TLS ({error}); set AWS_CA_BUNDLE to its CA")
    if isinstance(error, known.HTTPClientError | known.ConnectionError | known.IncompleteReadError):
        return Trouble(Kind.AWAY, f"{place} does not answer ({error})")
    if isinstance(error, known.NoCredentialsError | known.PartialCredentialsError):
        return Trouble(
            Kind.REFUSED,
            f"{place} needs credentials, and there are none: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, name a "
            "profile, or give the machine a role",
        )
    if isinstance(error, known.BotoCoreError):
        return Trouble(Kind.REFUSED, f"{place} cannot be asked: {error}")
    return None


def _answered(place: str, error: Exception) -> Trouble:
    """What an answer of AWS means that is an error."""
    answer = getattr(error, "response", {})
    code = str(answer.get("Error", {}).get("Code", ""))
    text = str(answer.get("Error", {}).get("Message", "")).removesuffix(".") or code
    status = int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in BUSY:
        return Trouble(Kind.BUSY, f"{place} is busy ({text})", code)
    if code == "ExpiredIteratorException":
        return Trouble(Kind.EXPIRED, f"{place}: {text}", code)
    if code == "InvalidArgumentException":
        return Trouble(Kind.UNKNOWN_POSITION, f"{place} refuses: {text}", code)
    if status >= 500 or code == "ResourceInUseException":
        return Trouble(Kind.AWAY, f"{place} cannot answer now ({text})", code)
    return Trouble(Kind.REFUSED, f"{place} {_REFUSED.get(code, 'refuses: {text}').format(text=text)}", code)
