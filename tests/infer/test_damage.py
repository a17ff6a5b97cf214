"""Whatever comes, a conclusion or one sentence: no traceback over damaged samples."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from tocsin.errors import ConfigError
from tocsin.infer.conclude import conclude
from tocsin.infer.sample import Piece, Sample
from tocsin.infer.writing import pipeline_file
from tocsin.pipeline.yamlfile import load_with_plan

SAMPLES = sorted((Path(__file__).parent / "samples").iterdir())
TRIES = 5


def sample(folder: Path) -> Sample:
    messages = folder / "messages.ndjson"
    if messages.exists():
        lines = [json.loads(line) for line in messages.read_text(encoding="utf-8").splitlines()[:30]]
        return Sample([Piece(line["topic"], line["payload"].encode()) for line in lines])
    files = [path for path in folder.iterdir() if path.name != "expected.json"]
    return Sample([Piece(path.name, path.read_bytes()[:3_000]) for path in files[:3]], is_files=True)


def damaged(payload: bytes, chance: random.Random) -> bytes:
    """A payload that is cut, or in which some bytes are gone, doubled or others."""
    made = bytearray(payload)
    for _ in range(chance.randint(1, 8)):
        at = chance.randrange(len(made) + 1)
        match chance.randrange(4):
            case 0:
                del made[at : at + chance.randint(1, 40)]
            case 1:
                made[at:at] = made[max(0, at - 40) : at]
            case 2:
                made[at:at] = chance.choice(
                    [b"\0", b"\xff\xfe", b'"', b";", b"{", b"]", b"<", b"\n\n", b"NaN", b"1e999"]
                )
            case _:
                made = made[: max(1, at)]
    return bytes(made)


@pytest.mark.parametrize("folder", SAMPLES, ids=lambda folder: folder.name)
def test_damage_ends_in_a_conclusion_that_can_be_loaded_or_in_a_sentence(folder: Path, tmp_path: Path) -> None:
    chance = random.Random(folder.name)
    whole = sample(folder)
    source = (
        {"files": {"path": "x.csv", "format": "text"}}
        if whole.is_files
        else {"mqtt": {"url": "mqtt://b", "topic": "#"}}
    )
    for _ in range(TRIES):
        pieces = [Piece(piece.topic, damaged(piece.payload, chance)) for piece in whole.pieces]
        try:
            made = conclude(Sample(pieces, whole.is_files), now_us=0)
        except ConfigError as error:
            assert len(str(error)) > 20  # noqa: PT017
            continue
        file = tmp_path / "x.yaml"
        file.write_text(pipeline_file(made, "x", source), encoding="utf-8")
        load_with_plan(file)
