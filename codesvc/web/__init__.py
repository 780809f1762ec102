"""The HTTP edge: routes, tokens, problems, and what a request leaves in logs and metrics."""
