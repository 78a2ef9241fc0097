"""Training objectives: `objective(params, batch, key) -> losses [b], metrics`, one file per kind of model."""
