"""A data set of the Hugging Face hub in a folder: pinned to one commit, every file compared with what the hub names."""
