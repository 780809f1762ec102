"""The datastore's tests run on both drivers."""

from .fixtures import campaigns, database_name, documents, driver, frozen, rig, rig_database, rigs

__all__ = ["campaigns", "database_name", "documents", "driver", "frozen", "rig", "rig_database", "rigs"]
