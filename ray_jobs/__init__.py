"""The jobs that run on Ray: the main pipeline, its parts by themselves, sweeps and WaltzRL.

Start at `pipeline.py`, the command line of the main job, and `pipeline_job.py`, its five steps.
Each command module (`pipeline`, `sae.train`, `sae.sweep`, `pii.train`, `waltzrl.train`, ...) reads
its flags and imports PyTorch and Ray only after that; the job behind it is a module of its own.
`cli.py` makes command lines of config dataclasses, `fields.py` checks their values.
"""
