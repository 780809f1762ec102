"""What networks and servers do to a request: cut, stall, lose, fail over."""
