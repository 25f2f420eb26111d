"""Ray's autoscalers, real and in one process, over the provider and a simulated cloud.

Virtual time, records only: `world` has the cloud, the laptop and the head; `ray_cluster` plays
what runs on the machines; `v2` and `v1` are Ray's own reconcilers; `schedules` draws what
happens to them.
"""
