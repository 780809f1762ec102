"""The suites of whole services; each takes a bench and adds to the report."""
