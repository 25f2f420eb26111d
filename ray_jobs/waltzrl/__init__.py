"""WaltzRL (arXiv 2510.08240): a conversation agent and a feedback agent trained together.

`train`, `evaluate` and `sweep` are the commands, light until their flags are read; `job`,
`evaluation_job` and `trials` are what they run, `config` and `recipes` what a run is. Start with
`algorithm` for the method (rewards, loss, one agent's update) and `training.stage` for a step:
dialogues (`rollout`), labels (`judges`), updates (`algorithm`), checkpoints. `models` has the base
model, `datasets` the prompts, `evaluation` the rates and pages, `planning` the dry run.
"""
