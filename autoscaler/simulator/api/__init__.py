"""The HTTP face of a simulated account: Lambda's API below `/api/v1`, our controls below `/sim`.

`api.py` takes one request from its bytes to its answer and is where to start; `endpoints.py`
has the calls, `validation.py` the schemas of their bodies, and `rate_limits.py` the 429s.
`controls.py` is ours alone: ledger, invariants, call log, faults and clock.
"""
