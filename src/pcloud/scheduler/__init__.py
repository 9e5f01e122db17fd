"""The binding to Pacemaker's scheduler library, and the process around it.

`pacemaker.c` calls the library and `build.py` compiles it; `worker` is the process that may abort; `client` runs that
process for asyncio; `fallback` asks the `crm_simulate` command line where the binding is not built; `opening` chooses.
This package itself imports nothing, so that the worker stays small.
"""
