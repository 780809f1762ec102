"""Several processes behind one address: a supervisor, and workers that each serve the whole API.

The supervisor binds the address, starts the workers (new interpreters, not forks) and hands them the listening
sockets, a channel of their own and a page of shared memory. It serves nothing, and stays small.

One set of listening sockets, accepted from by all. With SO_REUSEPORT each worker would have its own queue: connections
that wait in the queue of a worker that died are lost, those of one that hangs wait with it, and whether another service
has the port already is not told. The one drawback of a common queue is that who wakes first empties it; so a worker
takes one connection at a time, and lets workers with fewer connections go first: see acceptor.py, which has figures.
"""
