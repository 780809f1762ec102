"""MongoDB: the client, the queries, the indexes and the raw bulk commands."""
