"""`tocsin explain`: by what rows are of a class, as tables and as one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tocsin.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa

    from tocsin.models.explain import Explanation

RISKIEST = 10
BINS = 10


@click.command()
@click.argument("data", metavar="FILE|SQL")
@click.option("--target", required=True, metavar="COL", help="The column to explain: 0 and 1, or true and false.")
@click.option("--feature", "features", multiple=True, metavar="COL", help="Explain by these; else by all others.")
@click.option("--drop", multiple=True, metavar="COL", help="A column to leave out, such as what is known afterwards.")
@click.option("--time", metavar="COL", help="The column with the time; else rows are in order.")
@click.option("--folder", type=click.Path(path_type=Path), default=Path("tocsin-data"), help="Of the tables for SQL.")
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Write the report with its charts here, as HTML.")
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
def explain(
    data: str, target: str, features: tuple[str, ...], drop: tuple[str, ...], time: str | None, folder: Path,
    out: Path | None, form: str,
) -> None:  # fmt: skip
    """By what rows of a file (or of SELECT ... over the tables) are of a class: three models beside each other.

    The last 30 % of the rows judge; nothing is chosen on them.
    """
    from tocsin.cli.tables import show, write
    from tocsin.models.explain import explain as run_explain

    if out is not None and not out.absolute().parent.is_dir():
        raise ConfigError(f"-o {out}: there is no folder {out.absolute().parent}; make it first")
    made = run_explain(_read(data, time, folder), target, features, drop, time)
    for title, table in _tables(made):
        if form == "table":
            show(table, title)
        else:
            write(table, form)
    for sentence in _sentences(made):
        click.echo(sentence, err=True)
    if out is not None:
        from tocsin.cli.html import document

        name = data if _is_sql(data) else Path(data).name
        text = document(f"{target} explained: {name}", _sentences(made), _tables(made), _charts(made))
        out.write_text(text, encoding="utf-8")
        click.echo(f"the report is in {out}", err=True)


def _is_sql(data: str) -> bool:
    return data.lstrip().lower().startswith(("select ", "with ", "from "))


def _read(data: str, time: str | None, folder: Path) -> pa.Table:
    if _is_sql(data):
        from tocsin.lake.read import query

        return query(data, folder)
    from tocsin.cli.data_file import read_data, time_column

    table = read_data(Path(data))
    if time is not None and time in table.column_names:
        table = table.set_column(table.column_names.index(time), time, time_column(table, time))
    return table


def _sentences(made: Explanation) -> Sequence[str]:
    rates = ", ".join(f"{rate:.2%} of the rows that {part}" for part, rate in made.base_rates.items())
    said = [f"'{made.target}' is 1 in {rates}."]
    if made.left_out:
        said.append(f"{made.left_out} rows without a target or a time are left out.")
    for name, auc in made.leaks.items():
        said.append(f"'{name}' alone has AUC {auc:.4f}: probably it knows the answer; if so, leave it out: --drop.")
    return [*said, f"Where the models agree: {made.agreement()}."]


def _tables(made: Explanation) -> Sequence[tuple[str, pa.Table]]:
    import numpy as np
    import pyarrow as pa

    riskiest = np.argsort(-made.probability, kind="stable")[:RISKIEST]
    rows = [
        {
            "row": int(made.rows[i]) + 1,
            "probability": float(made.probability[i]),
            made.target: int(made.outcome[i]),
            "raised by": made.in_words(int(i)),
        }
        for i in riskiest
    ]
    rate = made.base_rates["judge"]
    return (
        (f"On the {len(made.rows)} rows that judge (base rate {rate:.2%})", made.models),
        ("Drop of average precision when a feature is shuffled, and SHAP share of the boosted trees", made.importance),
        (f"The riskiest rows by the boosted trees (base rate {rate:.2%})", pa.Table.from_pylist(rows)),
    )


def _charts(made: Explanation) -> Sequence[tuple[str, Any]]:
    import numpy as np
    import plotly.graph_objects as go

    names = made.importance["feature"].to_pylist()
    bars = [go.Bar(x=names, y=made.importance[c].to_pylist(), name=c) for c in made.importance.column_names[1:]]
    # As many rows in each bin, since most probabilities are small.
    bins = np.array_split(np.argsort(made.probability, kind="stable"), BINS)
    bins = [rows for rows in bins if len(rows)]
    said = [float(made.probability[rows].mean()) for rows in bins]
    happened = [float(made.outcome[rows].mean()) for rows in bins]
    top = max(*said, *happened)
    reliability = [
        go.Scatter(x=[0, top], y=[0, top], mode="lines", name="as promised", line={"dash": "dot"}),
        go.Scatter(x=said, y=happened, mode="lines+markers", name="boosted trees"),
    ]
    figures = [
        ("Importance by model", go.Figure(bars)),
        ("Reliability: share that happened by probability, tenths of the rows", go.Figure(reliability)),
    ]
    for _, figure in figures:
        figure.update_layout(template="plotly_white", height=360, margin={"l": 60, "r": 20, "t": 20, "b": 40})
    return figures
