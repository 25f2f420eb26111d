"""The TopK sparse autoencoder: model, training on Ray Train, export, sweeps.

Start at `model.py` (`TopKSAE`), whose step is computed by `kernels/topk.py`. `loop.py` is the
training of one worker, `job.py` the whole training with its run directory, `config.py` its values.
Commands: `train.py`, `sweep.py` (`search_space.py`, `trials.py`), `convert.py`.
"""
