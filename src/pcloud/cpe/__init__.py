"""The cloud policy engine (`pcloud-cped`): desired state of all deployables, and the engine processes that see to it.

`engine.CloudPolicyEngine` is the interface that `api` and `stacks` call; nothing here knows HTTP.
"""
