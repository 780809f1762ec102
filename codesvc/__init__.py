"""codesvc: the inventory of promotional codes, loaded from S3 into MongoDB and lent out over HTTP."""

from codesvc.version import __version__

__all__ = ["__version__"]
