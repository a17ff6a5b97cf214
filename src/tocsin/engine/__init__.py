"""Runners: what drives a pipeline."""
