"""The model: what travels to the Hub with the weights, and nothing else."""
