"""pacemaker-cloud: keeps applications that are made of guests running, and explains what it does.

The package is a house of rooms (sub-packages) that import downwards only; `docs/concepts.md` shows the plan and
import-linter holds it. This file stays empty of imports: the guest's agent shares the package and must start fast.
"""
