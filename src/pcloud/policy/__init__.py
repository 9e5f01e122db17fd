"""Decisions, pure: nothing here awaits, reads a clock, or logs.

The engine's cycle in terms of this room: `fold` turns an observation into the next `State` (and notes for the journal);
`cib.render` turns a state into the input of Pacemaker's scheduler; `graph` reads its answer; `reasons` says why for every
action; `status` tells users. `State` is immutable: the engine, the dry run, `explain` and the tests all call the same code.
"""
