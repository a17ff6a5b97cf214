"""The runner on Apache Flink: the steps of a pipeline spread over machines by groups of keys."""

import builtins

# A worker of PyFlink puts a method in the place of `print`; numba looks for the real one, or cannot be imported.
builtins.print = getattr(getattr(print, "__self__", None), "_print", print)
