"""The training on Ray Train's workers.

Start with `loop.Run`, one worker's way through the stages, and `stage.Stage`, whose `_take_step` is
one step. `restarts` decides what a run resumes from and halves micro batches that do not fit into
memory; `export` writes the trained agents.
"""
