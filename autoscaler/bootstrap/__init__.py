"""What `ray up` makes of the cluster YAML before it launches anything.

Start with `bootstrap`, which Ray calls through the provider. `config` parses our sections of
the YAML, `files` writes a cluster's secrets, `ssh_keys` makes and registers the key pair, and
`preflight` asks Lambda whether it has what the YAML names.
"""
