"""Prompts: read from published files, and split into training, validation and test.

Start with `splits.open_prompts`, which gives a run its prompts; `prompts` reads the files of each
published data set. Nothing here needs PyTorch.
"""
