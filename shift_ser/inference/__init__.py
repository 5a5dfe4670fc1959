"""Inference: labels and scores of recordings with a saved model."""
