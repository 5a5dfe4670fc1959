"""The Hub: pushing, model cards, export, and checkpoints of the authors."""
