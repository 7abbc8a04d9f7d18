"""Benchmarks are run by ``make bench``, not by pytest."""

collect_ignore_glob = ["*.py"]
