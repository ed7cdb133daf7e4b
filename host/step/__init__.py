"""The training step in integers, as a vector unit beside the array computes it, and the code of the host around it."""
