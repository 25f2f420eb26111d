"""Personal data in text: token classifiers on SAE latents or raw activations, and the detector.

Start at `detector.py` (`SAEPIIDetector`). A classifier (`classifier.py`) is a linear probe on
features of tokens (`features.py`) under a CRF over BIOES tags (`crf.py`, `spans.py`), beside
patterns with checks (`structure.py`). `training.py` makes one by the descent of `probes.py`,
`evaluation.py` scores it; `job.py` runs that on Ray for the
main job, `local_job.py` in one process for the command `train.py`.
"""
