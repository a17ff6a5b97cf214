"""`tocsin score` and `tocsin backtest`: steps over a file, and how good they would have been."""

from __future__ import annotations

from pathlib import Path

import click

from tocsin.cli.options import folder_option
from tocsin.errors import ConfigError


@click.command()
@click.argument("job", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@click.option(
    "-o", "--out", required=True, type=click.Path(path_type=Path), help="CSV, NDJSON or Parquet, by its suffix."
)
@click.option("--time", metavar="COL", help="The column with the time; else one of a usual name.")
@click.option("--value", metavar="COL", help="The column to judge; else 'value'.")
@click.option("--key", metavar="COL", help="The column that tells series apart; else all rows are one series.")
@click.option("--decimal", type=click.Choice([",", "."]), help="What stands before decimals; else it is guessed.")
@click.option("--format", metavar="FORMAT", help="How times are written, as '%d.%m.%Y %H:%M:%S'.")
@click.option("--zone", default="UTC", show_default=True, metavar="ZONE", help="Of times that name none.")
@click.option("--encoding", metavar="NAME", help="As cp1252; else UTF-8, or UTF-16 by its mark.")
@click.option("--skip", multiple=True, type=click.IntRange(1), metavar="LINE", help="A line of the file to leave out.")
def score(
    job: Path, data: Path, out: Path, time: str | None, value: str | None, key: str | None,
    decimal: str | None, format: str | None, zone: str, encoding: str | None, skip: tuple[int, ...],
) -> None:  # fmt: skip
    """Run a detector (YAML, or its bare name) or an anomaly job (JSON) over a file, as a stream."""
    from tocsin.cli.data_file import Writing
    from tocsin.cli.score import score as score_file

    writing = Writing(decimal, encoding, skip, format, zone)
    click.echo(f"{score_file(job, data, out, time, value, key, writing)} rows in {out}", err=True)


@click.command()
@click.argument("job", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), help="Write the report with its charts here, as HTML.")
@click.option("--since", metavar="TIME", help="Readings before this only teach; else those of the first half.")
@click.option("--time", metavar="COL", help="The column with the time; else one of a usual name.")
@click.option("--value", metavar="COL", help="The column to forecast, if the step does not say.")
@click.option("--key", metavar="COL", help="The column that tells series apart; else all rows are one series.")
@folder_option
@click.option("--table", default="alarms", show_default=True, help="The table with the labelled alarms.")
@click.option("--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True)
def backtest(
    job: Path,
    data: Path,
    out: Path | None,
    since: str | None,
    time: str | None,
    value: str | None,
    key: str | None,
    folder: Path,
    table: str,
    form: str,
) -> None:
    """How good a forecast (YAML steps that end with forecast or model, or its bare name) would have been over a file.

    Beside it stand the last reading and, with a season, the reading one season before, on the same readings; beside a
    trained model also ridge, which needs no training. A model is judged by what comes after its training only. Steps
    that end with alarm are judged by the labels in the table of alarms, and a better limit is proposed in words. Steps
    that end with failure_probability are judged by the file's column that the model foretells, beside plain methods.
    """
    from tocsin.cli.backtest import backtest as run_backtest
    from tocsin.cli.backtest_alarms import backtest_alarms
    from tocsin.cli.backtest_failure import backtest_failure
    from tocsin.cli.score import ends_with
    from tocsin.cli.tables import show, write
    from tocsin.estimate.failure_probability import FailureProbability
    from tocsin.notify.alarm import Alarm

    if ends_with(job, Alarm):
        if out is not None:
            raise ConfigError(
                f"-o {out}: there is a report of forecasts only; --format json gives the figures of alarms"
            )
        judged, sentences = backtest_alarms(job, data, folder, table, since, time, value, key)
        write(judged, form)
        for sentence in sentences:
            click.echo(sentence, err=True)
        return
    if out is not None and not out.absolute().parent.is_dir():
        raise ConfigError(f"-o {out}: there is no folder {out.absolute().parent}; make it first")
    made = (
        backtest_failure(job, data, since, time, key)
        if ends_with(job, FailureProbability)
        else run_backtest(job, data, since, time, value, key)
    )
    for title, figures in made.tables():
        if form == "table":
            show(figures, title)
        else:
            write(figures, form)
    click.echo(made.verdict(), err=True)
    if out is not None:
        from tocsin.cli.backtest_page import page

        out.write_text(page(made, data.name), encoding="utf-8")
        click.echo(f"report in {out}", err=True)
