"""The dry run: steps, memory, hours and dollars of a run before anything starts.

Start with `dry_run.plan_run`; `memory` and `cost` have the formulas, `report` puts a plan into
words.
"""
