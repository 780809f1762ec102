"""The datastore's tests run on both drivers."""

from .fixtures import database_name, documents, driver, frozen, rig, rig_database, rigs

__all__ = ["database_name", "documents", "driver", "frozen", "rig", "rig_database", "rigs"]
