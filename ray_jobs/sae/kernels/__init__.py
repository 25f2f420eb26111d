"""The SAE's training step as one autograd function: see `topk.py`.

A faster implementation for an accelerator goes here and must agree with it.
"""
