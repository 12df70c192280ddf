"""Candidate and champion filmed on one suite, measured, judged: what `registry promote` does before an alias moves.

It stands above generation, evaluation and registry, which do not know one another.
"""
