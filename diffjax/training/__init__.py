"""Training: the objective, one pure step, and what a long run needs around it."""
