"""The kernel's word on partitions of loop devices, so that a disk that is partitioned in a guest has its nodes there.

Concurrency: lives on one event loop; `told` is called there.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable

_UEVENTS = 15
"""NETLINK_KOBJECT_UEVENT of linux/netlink.h."""
_KERNEL = 1
"""The multicast group of the kernel's own messages."""
_PARTITION = re.compile(rb"DEVPATH=/devices/virtual/block/(loop[0-9]+)/loop[0-9]+p[0-9]+")


class PartitionWatch:
    """Tells of loop devices whose partitions came or went."""

    def __init__(self, told: Callable[[str], None]) -> None:
        self._told = told
        self._socket: socket.socket | None = None

    def open(self) -> None:
        """Listen from now on; OSError when the kernel lets nobody."""
        if self._socket is not None:
            return
        made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _UEVENTS)
        try:
            made.bind((0, _KERNEL))
        except OSError:
            made.close()
            raise
        self._socket = made
        asyncio.get_running_loop().add_reader(made.fileno(), self._read, made)

    def close(self) -> None:
        """Listen no more."""
        made, self._socket = self._socket, None
        if made is not None:
            asyncio.get_running_loop().remove_reader(made.fileno())
            made.close()

    def _read(self, made: socket.socket) -> None:
        try:
            message, sender = made.recvfrom(65536)
        except BlockingIOError:
            return
        except OSError:
            return  # an overrun: messages were lost; the next one, or the guest's next start, has what is true
        if sender[0] == 0 and (found := _PARTITION.search(message)):
            self._told(found[1].decode())
