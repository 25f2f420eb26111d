"""What Ray sees of a cluster: its nodes, listed, launched, kept healthy and terminated.

Start with `contract.py`, which says what Ray may count on, and with `cluster.py`, which does it.
`listing.py` is the list that never flaps, `maintenance.py` ends nodes for health and budget,
`head.py` is the laptop's part, and `ray_logs.py` keeps Ray's own log readable.
"""
