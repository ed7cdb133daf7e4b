"""Networks: layers with their gradients, models, mixed precision within a batch, gates, the optimiser."""
