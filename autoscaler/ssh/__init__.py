"""What runs on a cluster's machines over ssh.

`runner` is Ray's command runner with our additions: `health_check` on a new node before anything
else (its program, `health_check_program`, runs on the machine itself), and an end of the cluster
in place of a shutdown, which Lambda would go on billing. `ask_head` asks a head for its status.
Start with `runner`.
"""
