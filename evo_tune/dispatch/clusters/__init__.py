"""Slots on clusters: an engine (Dask, Ray) sends candidates to a `Host`, which trains them in a local slot."""
