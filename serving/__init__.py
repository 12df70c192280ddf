"""The service: image-to-video jobs by HTTP, durable, each video with the version that made it and its scores.

Importing this package, its configuration and its requests loads no torch; only the engine does.
"""
