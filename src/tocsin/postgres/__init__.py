"""PostgreSQL as source `postgres` and sink `postgres` share it: the connection, the types, what the server refuses."""
