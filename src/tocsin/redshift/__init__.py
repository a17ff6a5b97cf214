"""Amazon Redshift for sink `redshift`: its types, the files that COPY reads, the table, what is noted beside it."""
