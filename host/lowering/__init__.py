"""From products to descriptors: how operands are tiled, packed and laid out in the memory of a board."""
