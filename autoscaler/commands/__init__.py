"""What the subcommands of `raylambda` do; `autoscaler.cli` declares their names and flags.

On the laptop and the head: `status`. On the head only: `check_head`, the last command of
`ray up`, and `end_cluster`, which Ray runs in place of a shutdown. Start with `status`.
"""
