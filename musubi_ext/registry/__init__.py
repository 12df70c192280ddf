"""What was trained, what is live and why: MLflow tracking, the pair as a registered model, promotion by a gate."""

import os

# MLflow reports its use over the network unless told otherwise before it is imported; an explicit choice is kept.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
