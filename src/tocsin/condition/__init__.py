"""Steps that bring rows into shape."""
