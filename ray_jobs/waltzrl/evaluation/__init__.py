"""Measuring agents: the rows of the paper's comparison, their rates, and report pages.

Start with `rows.Evaluator`, which samples and judges dialogues; `metrics` turns judged dialogues
into rates with bootstrap intervals, and `report` shows them as HTML and text.
"""
