"""Decisions, pure: nothing in this room awaits, reads a clock, does I/O or logs.

`graph` reads the scheduler's transition graph; `walk` says what of it may run now.
"""
