"""Each command that a page shows is one, with its options and arguments."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from tocsin.cli import main

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINE = re.compile(r"^(?:\$ )?(?:\w+=\S+ )*(tocsin .*)")
ENDS = {"|", ">", ">>", "&", "&&", ";", "||", "2>&1"}


def shown(text: str) -> Iterator[tuple[str, bool]]:
    """The commands of a page, and whether each is whole: within a sentence what is plain may be left out."""
    for language, block in BLOCK.findall(text):
        if language in ("", "bash", "sh", "console"):
            lines = iter(block.replace("\\\n", " ").splitlines())
            for line in lines:
                if (match := LINE.match(line.strip())) is not None:
                    command = match[1]
                    while command.count('"') % 2:
                        command += f"\n{next(lines)}"
                    yield command, True
    for command in re.findall(r"`(tocsin [^`]+)`", BLOCK.sub("", text)):
        yield command, False


def split(command: str) -> list[str]:
    """The words of a command, without its own name, up to where the shell does something with what it prints."""
    words = shlex.split(command, comments=True)[1:]
    return words[: next((i for i, word in enumerate(words) if word in ENDS), len(words))]


def parsed(words: list[str], is_whole: bool) -> None:
    """Raises ClickException if that is not a command."""
    command: click.Command = main
    while isinstance(command, click.Group):
        if not words or words[0].startswith("-") or (not is_whole and not words[0].isidentifier()):
            return
        name = words.pop(0)
        inner = command.get_command(click.Context(command), name)
        if inner is None:
            raise click.UsageError(f"there is no command {name}")
        command = inner
    try:
        command.make_context(command.name, words)
    except click.exceptions.Exit:
        return  # it was asked for its help
    except click.MissingParameter:
        if is_whole:
            raise


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_each_command_is_one(page: Path) -> None:
    for command, is_whole in shown(page.read_text(encoding="utf-8")):
        try:
            parsed(split(command), is_whole)
        except click.ClickException as error:
            pytest.fail(f"{command}: {error.format_message()}")


def test_what_is_no_command_is_noticed() -> None:
    for command in ("tocsin runn x.yaml", "tocsin run x.yaml --pgae", "tocsin run", "tocsin alarms akc 1"):
        with pytest.raises(click.ClickException):
            parsed(command.split()[1:], is_whole=True)
