"""Persistence: what must survive every process of ours. SQLite as the embedded default, PostgreSQL by the same code.

`Store` (in `store`) is the one thing other rooms open; its attributes (`deployables`, `log`, `library`, `jobs`, `tokens`)
own a table each. Private keys are *not* here but in files, see `pcloud.cpe.keys`.
"""
