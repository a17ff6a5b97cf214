"""Steps that turn verdicts into alarms."""
