"""Boards of other machines: a server runs a board, a client drives it over the network as one of its own."""
