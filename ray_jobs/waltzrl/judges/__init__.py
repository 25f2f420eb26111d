"""Judges: whether an answer is unsafe, and whether it refuses what is harmless.

Start with `judges.open_judge`. A judge is a function from (prompt, answer) pairs to labels: rules
of the embedded world, a model behind a server (`server`) or one on the worker (`local`). `forms`
has what judge models are asked and how their replies are read.
"""
