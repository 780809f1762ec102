"""Uploads: from a source of bytes, through the extractor, to the store."""
