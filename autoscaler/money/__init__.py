"""What a cluster costs and may cost, in integer cents.

`budget` decides whether one more machine may be launched, without I/O. `ledger` keeps what each
machine has cost in the state file. `spend_sync` carries a run's charges between the laptop and
its heads, so that `max_total_cents` counts the whole run. Start with `budget`.
"""
