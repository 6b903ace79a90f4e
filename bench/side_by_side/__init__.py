"""Measures Redis itself and the proxies in front of it side by side, in one run. `bench/run` is the way in."""
