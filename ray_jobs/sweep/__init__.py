"""Sweeps of any job: Ray Tune searches and stops early, trials are ordinary runs of the job."""
