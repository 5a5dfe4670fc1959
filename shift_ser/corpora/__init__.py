"""Corpora: from a folder on disk to one `datasets.Dataset`."""
