"""The verbs of `musubi-ext` that belong to no other package: each a module with `add_arguments` and `run`."""
