"""The command lines: `pcloud` (one-shot, `main`) and `pcloudsh` (interactive, `pcloudsh`). They speak only HTTP.

This file imports nothing; modules import what is slow (rich, httpx2, prompt_toolkit) where it is used, so that
`pcloud --help` answers at once.
"""
