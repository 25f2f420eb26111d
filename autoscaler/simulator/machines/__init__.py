"""Machines behind instances: Linux namespaces on this host, each with an sshd.

`machines.py` is the interface that the cloud calls; `namespaces.py` implements it and is where
to start. A machine is `machine.sh` over the files of `image.py`, on the bridge of `network.py`,
below the memory limit of `memory.py`. `probe.py` asks whether this host can make one, and
`relay.py` lets machines reach servers on this host's loopback.
"""
