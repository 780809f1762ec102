"""The pipeline's own tests need a real store for what is stored."""

from datastore.fixtures import database_name, documents, driver, frozen, rig, rig_database, rigs

__all__ = ["database_name", "documents", "driver", "frozen", "rig", "rig_database", "rigs"]
