"""Runs operations on stacks: APIs call `manager`, `run` carries one operation out, `scopes` tells templates what exists."""
