"""What the sources' tests share with the others."""

from datastore.fixtures import frozen

__all__ = ["frozen"]
