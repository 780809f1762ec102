"""The datastore against a real MongoDB, on both drivers."""
