"""How the jobs use Ray: the cluster they join, the workers they train on, the lines they print.

Start in fit.py: `fit` runs a training loop on Ray Train's workers and restarts them when one
dies. options.py has the flags that every job has, cluster.py what fits on the nodes, progress.py
the log lines on their way to the driver, collectives.py what the workers exchange.
"""
