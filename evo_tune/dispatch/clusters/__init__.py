"""Slots on clusters: candidates travel to a host in an engine (Dask, Ray), which trains them in a local slot."""
