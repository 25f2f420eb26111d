"""One machine's life at Lambda: chosen, launched, reconciled with the records, terminated.

Start with `acquire.py`: it picks an offering that is available and affordable, and `launcher.py`
launches there, once, with the intent recorded in `journal.py` before. `reconcile.py` compares
every list of instances with the records; `terminator.py` ends instances, and `teardown.py` a
whole cluster, until that is verified. Nothing here knows Ray.
"""
