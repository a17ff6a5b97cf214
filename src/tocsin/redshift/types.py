"""Redshift's types: which one keeps a column of Arrow, and which other one, already there, can take it as well."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.types as pt

from tocsin.errors import SchemaError
from tocsin.postgres import types as postgres
from tocsin.postgres.types import ColumnFit

if TYPE_CHECKING:
    from psycopg.sql import Composable

SUPER, VARBYTE, VARCHAR = "super", "varbyte", "character varying(65535)"
_DIGITS_MAX = 38
_BINARY = re.compile(r"(?:varbyte|binary varying)(?:\(\d+\))?")


def sql_type(type: pa.DataType, column: str) -> str | None:
    """Return the type that keeps a column, as Redshift writes it; None for one that holds nothing but nulls.

    Texts are as long as they may be there, bytes up to 64,000; lists, structs and maps become ``super``.

    Raises
    ------
    SchemaError
        There is none; the sentence names ``column``.

    Examples
    --------
    >>> sql_type(pa.float64(), "speed"), sql_type(pa.list_(pa.string()), "tags"), sql_type(pa.null(), "unknown")
    ('double precision', 'super', None)
    """
    kept = postgres.sql_type(type, column, "Redshift")
    too_long = pt.is_decimal(type) and type.precision > _DIGITS_MAX
    if kept == "interval" or too_long:
        raise SchemaError(f"Redshift cannot hold column '{column}' of type {type}; cast it first")
    if kept is not None and (kept == postgres.JSON or kept.endswith("[]")):
        return SUPER
    return {postgres.TEXT: VARCHAR, "bytea": VARBYTE}.get(kept or "", kept)


def fit(comes: str, there: str) -> ColumnFit:
    """Return how values of one type fit a column of another; both as Redshift writes them.

    Examples
    --------
    >>> fit("integer", "bigint").name, fit(VARCHAR, "character varying(5)").name, fit("super", "bigint").name
    ('WHOLE', 'IN_PART', 'NOT')
    """
    if comes == VARCHAR and there.startswith("character varying("):
        return ColumnFit.WHOLE if there == VARCHAR else ColumnFit.IN_PART
    if comes == VARBYTE and _BINARY.fullmatch(there):
        return ColumnFit.IN_PART
    return postgres.fit(comes, there)


def type_sql(type: str) -> Composable:
    """Return one of our types as SQL."""
    from psycopg import sql

    named = {SUPER: "super", VARBYTE: "varbyte", VARCHAR: "varchar(65535)"}
    return sql.SQL(named[type]) if type in named else postgres.type_sql(type)
