"""A service without HTTP, for tests that kill it: `python jobs_process.py SETTINGS`; SIGTERM ends it in order."""

from __future__ import annotations

import signal
import sys
import threading

from serving.jobs import Jobs
from serving.queue.job_settings import JobSettings

if __name__ == "__main__":
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    jobs = Jobs(JobSettings.from_json(sys.argv[1]))
    jobs.start()
    print("started", *jobs.supervisor.pids(), flush=True)
    stop.wait()
    jobs.close()
