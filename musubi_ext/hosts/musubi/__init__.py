"""The real host: musubi-tuner's own Wan trainer, found, imported and checked. Nothing is imported from it at load."""
