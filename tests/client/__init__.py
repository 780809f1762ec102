"""The Python client and the commands built on it, against a real service."""
