"""The deployable policy engine: one control loop a deployable, many in one process (`pcloud-dped`).

observe → snapshot → decide → act → record. Each deployable is handled strictly in sequence in a task of its own.
"""
