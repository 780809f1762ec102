"""The contract, held against a running service: real processes, real HTTP, a real mongod, a real S3 endpoint."""
