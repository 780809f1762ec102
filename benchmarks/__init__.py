"""Benchmarks of codesvc: `make bench` runs them all and writes the report, `make bench-quick` only shows they run."""
