"""`python -m musubi_ext.pipeline`: prepare, train, evaluate, promote, each repeated only when its inputs changed."""
