"""What a start says while it compiles: once, not for a loop or two, and on a terminal with a bar."""

from __future__ import annotations

import io

import numba
import pytest
from rich.console import Console
from rich.progress import Progress

from tocsin.cli import compiling

SENTENCE = "plant: compiling for this processor, first start only\n"


def _compile(loops: int) -> None:
    """Compile as many loops, each of a type of its own, which no cache holds."""
    for width in range(loops):
        numba.njit(lambda row: row[0])((width,) * (width + 1))


def test_a_start_that_compiles_says_so_once(capsys: pytest.CaptureFixture[str]) -> None:
    with compiling.told("plant"):
        _compile(compiling.SAY_FROM - 1)
        assert capsys.readouterr().err == ""
        _compile(3)
    assert capsys.readouterr().err == SENTENCE
    _compile(compiling.SAY_FROM)
    assert capsys.readouterr().err == ""


def test_the_bar_of_a_terminal_stands_among_the_others_and_goes(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = io.StringIO()
    with Progress(console=Console(file=terminal, force_terminal=True)) as bars:
        run = bars.add_task("plant", total=None)
        with compiling.told("plant", bars):
            _compile(compiling.SAY_FROM)
        assert bars.task_ids == [run]
    assert "compiling" in capsys.readouterr().err + terminal.getvalue()


def test_the_loops_of_the_parts_that_are_loaded_are_counted() -> None:
    from tocsin.detect import _episode

    own = [one for one in vars(_episode).values() if isinstance(one, numba.core.dispatcher.Dispatcher)]
    assert len(own) > 10
    assert compiling.loops() > len(own)
