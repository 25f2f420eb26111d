"""Lambda Cloud's API, typed; everything above speaks to Lambda through it.

Start with `client`: a method for each endpoint that the product uses. `transport` sends one
request, `rate_limit` says when it may leave, `wire` reads the answers
and writes the launch. `catalog` is what can be had at what price, over the packaged
`prices`. `tags` translates Ray's node tags, `credentials` finds the key and the address.
"""
