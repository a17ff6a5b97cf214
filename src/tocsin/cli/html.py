"""A report as one HTML file: sentences, tables and charts, with all that they need inside; it works offline."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import pyarrow as pa

from tocsin.values.text import printable

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #1c2733 }
table { border-collapse: collapse; margin: 1rem 0 }
td, th { padding: .25rem .8rem; border-bottom: 1px solid #d8dee6; text-align: right }
td:first-child, th:first-child { text-align: left }
.verdict { font-size: 1.1rem; font-weight: 600 }
"""


def document(
    title: str, sentences: Sequence[str], tables: Sequence[tuple[str, pa.Table]], charts: Sequence[tuple[str, Any]]
) -> str:
    """Returns the file; tables and charts (figures of plotly) have their titles before them."""
    from plotly.offline import get_plotlyjs

    heading = _escaped(title)
    parts = [f"<h1>{heading}</h1>", *(f'<p class="verdict">{_escaped(sentence)}</p>' for sentence in sentences)]
    parts += [f"<h2>{_escaped(name)}</h2>{_table(table)}" for name, table in tables]
    parts += [f"<h2>{_escaped(name)}</h2>{_drawn(figure)}" for name, figure in charts]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{heading}</title><style>{STYLE}</style>'
        f"<script>{get_plotlyjs()}</script></head><body>{''.join(parts)}</body></html>\n"
    )


def _escaped(text: str) -> str:
    return escape(printable(text))


def _table(table: pa.Table) -> str:
    head = "".join(f"<th>{_escaped(name)}</th>" for name in table.column_names)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(_cell(value))}</td>" for value in row.values()) + "</tr>"
        for row in table.to_pylist()
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else printable(str(value))


def _drawn(figure: Any) -> str:
    return str(figure.to_html(full_html=False, include_plotlyjs=False, include_mathjax=False))
