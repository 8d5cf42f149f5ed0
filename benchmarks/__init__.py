"""What the pipeline costs, as ratios measured in one run: ``make bench``, or ``python -m benchmarks [--only NAME]``."""
