"""Mixed context window training: texts to token shards, shards to short and long segments, segments to a stream."""
