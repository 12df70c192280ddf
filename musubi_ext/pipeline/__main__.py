"""`python -m musubi_ext.pipeline STEP`: what mlflow_projects/MLproject runs."""

from __future__ import annotations

import sys

from musubi_ext.pipeline.command import main

if __name__ == "__main__":
    sys.exit(main())
