"""The performance suite: what is timed (test_*.py), how (harness/), what came out (results/)."""
