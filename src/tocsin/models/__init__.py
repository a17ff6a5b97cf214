"""Trained models: from rows in the lake to versions that are proven, kept, and followed by whoever infers."""

from pathlib import Path

SAMPLES = Path(__file__).parent / "samples"
"""A store with small models, for the examples of the steps that follow one."""
