"""Sweeps of any job: Ray Tune searches and stops early, trials are ordinary runs of the job.

Start at `run.py` (`run_sweep`). A job describes itself by a `JobSpec` (`plan.py`); `space.py` and
`search.py` choose points, `scheduler.py` stops trials, `trial.py` is one in its worker. What
happens is recorded by `callback.py` in the ledger (`ledger.py`, `sweep.json`), from which a sweep
resumes; `cost.py` counts the money; `table.py` and `report.py` show what came out, and
`results.py` leaves it in `best/`.
"""
