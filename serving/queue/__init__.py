"""How a job is kept: its row and place in the queue, the worker that runs it, what is done after a crash."""
