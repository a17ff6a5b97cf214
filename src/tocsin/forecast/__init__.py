"""Steps that say what will be."""
