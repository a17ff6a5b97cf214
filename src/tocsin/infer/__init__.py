"""What a source holds, concluded from a sample of it: format, time, machine, signals, and the pipeline file for them.

Pure functions over bytes and topics; every conclusion carries its reason. `conclude.conclude` puts them together.
"""
