"""Activations of a host model: harvested once on Ray, kept in hashed shards, streamed shuffled.

`prepare` (prepare.py) is what a training calls: texts from dataset.py, then `harvest` of each
split. harvester.py computes one shard, harvest_pool.py runs it in Ray actors, host_model.py is the
model. `ActivationSet` (shards.py) reads what was harvested; `ActivationStream` (stream.py) gives
a training its batches.
"""
