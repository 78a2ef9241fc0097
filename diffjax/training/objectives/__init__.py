"""What a model is trained on: `objective(params, batch, key) -> losses [b], metrics`, one kind of model a file."""
