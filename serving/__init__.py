"""The service: image-to-video jobs by HTTP, durable, each video with the version that made it and its scores.

    service.py, config.py    what BentoML serves, and the TOML it is told
    api.py, http/            routes, uploads, who may ask, what is answered; ui/ is the page
    jobs.py, keys.py, queue/ accepted jobs, their rows, the worker processes, what is done after a crash
    engine.py, making/       the stages from a request to a measured mp4
    adapters_live.py, versions/   the version that serves, and how well it does
    deploy/                  container, compose, Kubernetes

Importing this package, its configuration and its requests loads no torch; only the engine does.
"""
