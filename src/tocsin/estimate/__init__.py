"""Steps that say how a machine is."""
