"""Ray's node provider for Lambda Cloud, and the `raylambda` command.

What Ray calls is `provider.py`, what a person calls `cli.py`. Below them `nodes/` is what Ray
sees, `instances/` the life of one machine, `money/` its cost, and `lambda_cloud/` the API.
`simulator/` is a Lambda Cloud on this machine; the provider meets it over HTTP only.
`docs/architecture.md` follows a worker from demand to joined through these rooms.
"""
