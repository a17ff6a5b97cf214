"""Trained models: from rows in the lake to versions that are proven, kept, and followed by whoever infers."""
