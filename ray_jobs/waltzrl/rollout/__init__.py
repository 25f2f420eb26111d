"""Rollout: dialogues of the two agents, and the samplers that generate their replies.

Start with `dialogue.converse`. A sampler is a function from requests to replies; `samplers` makes
the one that the config names: `hf` (transformers' generate), `continuous` (its continuous batching)
or `server` (vLLM or SGLang).
"""
