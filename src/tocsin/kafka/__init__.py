"""What source and sink `kafka` have in common, over the client library `confluent-kafka`."""
