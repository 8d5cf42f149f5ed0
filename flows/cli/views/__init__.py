"""Show results to a person or a script. Nothing is written."""
