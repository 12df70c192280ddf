"""Which version makes it, and how well it does: the registry, the drift alarm, online evaluation in MLflow."""
