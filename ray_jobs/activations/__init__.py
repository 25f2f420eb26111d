"""Activations of a host model: harvested once on Ray, kept in hashed shards, streamed shuffled."""
