"""`make demo`: the product on this machine, on a simulated cloud or a local Ray.

Start at `__main__.py`. `simulated_cluster.py` brings a cluster up with the real commands,
`local_ray.py` is what is used where machines cannot be simulated, and `submission.py` submits a
job to either and follows it.
"""
