"""From a pipeline file to a plan: the model, the parts in it, and what it compiles to."""
