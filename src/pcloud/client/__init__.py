"""The typed client of the HTTP API `/v1`: what `pcloud`, `pcloudsh` and scripts in Python use.

    from pcloud.client.api import Client
    with Client.from_environment() as client:
        for deployable in client.deployables():
            ...

This file imports nothing, so that commands that need no daemon start fast.
"""
