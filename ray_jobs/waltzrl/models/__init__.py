"""The base model of both agents.

Start with `base`: it finds, fetches or builds the model and loads it. `world` trains the small
language model of the embedded text world.
"""
