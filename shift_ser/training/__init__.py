"""Training: from a Dataset and a plan to a model and its predictions."""
