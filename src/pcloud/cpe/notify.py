"""Talking to the service manager (sd_notify); nothing happens where there is none."""

from __future__ import annotations

import asyncio
import os
import socket


def under_service_manager() -> bool:
    """Tell whether a service manager started this process and is told how it fares."""
    return bool(os.environ.get("NOTIFY_SOCKET"))


def notify(message: str) -> None:
    """Send one notification, such as `READY=1`."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        try:
            sender.connect(address)
            sender.sendall(message.encode())
        except OSError:
            return  # a service manager that is away must not harm us


async def watchdog() -> None:
    """Tell the service manager for ever that the event loop turns; returns at once where no watchdog is set."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    if not microseconds.isdigit() or os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return
    interval = int(microseconds) / 1e6 / 3
    while True:
        notify("WATCHDOG=1")
        await asyncio.sleep(interval)
