"""The second implementation of the environment: guests, agents and faults in virtual time.

`loop` replaces waiting by a jump of the clock; `world` holds simulated guests and their services, implements
`Infrastructure` and `Transport`, and takes faults on demand. The engine that runs on it is the real one.
"""
