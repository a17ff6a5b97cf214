"""Amazon Kinesis Data Streams: how to reach a stream, its shards as splits, and what its errors mean."""
