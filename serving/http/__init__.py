"""How it is asked for: routes, uploads, who may ask, what is answered, what Prometheus reads."""
