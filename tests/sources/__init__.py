"""The sources of uploads against real files, a real S3 endpoint, and servers with ways of their own."""
