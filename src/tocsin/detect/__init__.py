"""Steps that say what is abnormal."""
