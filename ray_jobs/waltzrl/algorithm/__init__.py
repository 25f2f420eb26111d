"""The method: rewards, loss, an agent's update, and the model that DeepSpeed trains.

What a reader of the paper comes for. Start with `rewards` (from the judge's labels to samples),
then `loss` (REINFORCE++ on padded tensors), `learner` (one agent's update over all workers) and
`policy` (the DeepSpeed engine and its state). The modules' docstrings have the formulas, and where
they deviate from the paper.
"""
