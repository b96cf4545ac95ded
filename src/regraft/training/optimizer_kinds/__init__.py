"""Optimisers beside AdamW, one file each; what they do to weights stands in `steps`."""
