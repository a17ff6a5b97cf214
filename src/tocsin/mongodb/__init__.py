"""MongoDB as source `mongodb` reads it: the connection, documents as JSON, how far each collection has been read."""
