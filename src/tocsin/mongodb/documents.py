"""Documents as JSON records: each type of BSON has one form, whatever the server."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec

_encoder = msgspec.json.Encoder(decimal_format="number")
_DIGITS_MAX = 40
"""A decimal whose exponent would make it longer than this is written with its exponent."""


def as_json(document: Mapping[str, Any]) -> bytes:
    """Return a document as JSON; what no number is (NaN, infinite) is null, as JSON has no word for it.

    Examples
    --------
    >>> from bson import Decimal128, ObjectId
    >>> as_json({"_id": ObjectId("65a1b2c3d4e5f60718293a4b"), "price": Decimal128("12.50"), "gap": float("nan")})
    b'{"_id":"65a1b2c3d4e5f60718293a4b","price":12.50,"gap":null}'
    """
    return _encoder.encode(plain(document))


def as_text(value: Any) -> str:
    """Return a value, such as an ``_id``, as text: itself if it is text, else its JSON."""
    value = plain(value)
    return value if isinstance(value, str) else _encoder.encode(value).decode()


def plain(value: Any) -> Any:
    """Return a value of BSON in the types of JSON."""
    kind = type(value)
    if kind in (str, int, bool) or value is None:
        return value
    if kind is float:
        return value if math.isfinite(value) else None
    if isinstance(value, datetime):
        return _instant(value)
    if isinstance(value, Mapping):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [plain(inner) for inner in value]
    return _of_bson(value)


def _of_bson(value: Any) -> Any:
    """Return a value of one of the types that only BSON has."""
    from bson import Binary, Code, DBRef, Decimal128, MaxKey, MinKey, ObjectId, Regex, Timestamp
    from bson.datetime_ms import DatetimeMS

    match value:
        case ObjectId():
            return str(value)
        case Decimal128():
            return _decimal(value.to_decimal())
        case DatetimeMS():
            return f"{int(value)} ms"  # a year that no calendar here has: whoever wants a time sets it aside
        case Timestamp():
            return _instant(value.as_datetime())
        case Binary() | bytes():
            is_uuid = getattr(value, "subtype", 0) in (3, 4) and len(value) == 16
            return str(UUID(bytes=bytes(value))) if is_uuid else base64.b64encode(value).decode()
        case UUID() | Code():
            return str(value)
        case Regex():
            return str(value.pattern)
        case DBRef():
            return plain(value.as_doc())
        case MinKey() | MaxKey():
            return None
        case int():
            return int(value)
        case _:
            return str(value)


def _instant(at: datetime) -> str:
    return at.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z"


def _decimal(number: Decimal) -> Decimal | float | None:
    if not number.is_finite():
        return None
    exponent = number.as_tuple().exponent
    is_short = isinstance(exponent, int) and -_DIGITS_MAX <= exponent <= 0
    return number if is_short else float(number)
