"""The state of a simulated account: instances, capacity, faults and the bill, without HTTP.

`cloud.py` is the state machine and where to start: it settles boots, faults and ends in the
order of their times, on an injected clock (`clock.py`). `config.py` says how the account behaves,
`faults.py` what can be made to go wrong and `fault_registry.py` what is wrong now; `offers.py`,
`account.py` and `instances.py` hold what Lambda sells, what the account owns and what runs.
"""
