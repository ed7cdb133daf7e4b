"""Other numerics than those of the device, computed in floating point on the host: to compare with."""
