"""What the service and its worker processes agree on."""

LAST = 3.0  # seconds a job has to reach a step boundary, once the grace period is over
MISTAKE = 2  # a worker's exit status: what was configured cannot be run, and another try will not change that
