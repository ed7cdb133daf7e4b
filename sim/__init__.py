"""Simulation: the golden model, the compiled RTL as a board, and the testbenches."""
