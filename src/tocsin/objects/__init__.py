"""Objects at an address: what sources and sinks share to reach an object store, or HDFS by WebHDFS."""
