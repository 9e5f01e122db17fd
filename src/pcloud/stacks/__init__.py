"""Stacks: CloudFormation and HOT templates → plan → resources, among them deployables that the engine keeps alive.

`documents`, `template`, `cloudformation`, `hot`, `parameters`, `functions/`, `graph` and `plan` are pure. `types/` holds one
small class per resource type with its schema. `engine/` runs operations on stacks; `store` keeps them; `platform` is the
interface through which types touch guests.
"""
