"""Measures what locks cost: upstream, in the proxy, and in time. `bench/locks` is the way in."""
