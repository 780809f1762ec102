"""The embedded stack for development: mongod, an S3 endpoint and a demonstration."""
