"""The pipeline of uploads, step by step."""
