"""The kernel's word on partitions of loop devices, so that a disk that is partitioned in a guest has its nodes there.

The kernel drops messages when its queue for us is full, and says once that it did. Then nobody knows what was lost, and all
that could have changed must be looked at again: `lost` is called for that.

Concurrency: lives on one event loop; `told` and `lost` are called there.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import re
import socket
from collections.abc import Callable

_log = logging.getLogger(__name__)
_AT_ONCE = 1000
"""Messages that are read before others have their turn."""
_UEVENTS = 15
"""NETLINK_KOBJECT_UEVENT of linux/netlink.h."""
_KERNEL = 1
"""The multicast group of the kernel's own messages."""
_PARTITION = re.compile(rb"DEVPATH=/devices/virtual/block/(loop[0-9]+)/loop[0-9]+p[0-9]+")


class PartitionWatch:
    """Tells of loop devices whose partitions came or went."""

    def __init__(self, told: Callable[[str], None], lost: Callable[[], None]) -> None:
        self._told = told
        self._lost = lost
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
        changed: dict[str, None] = {}
        lost = False
        for _ in range(_AT_ONCE):
            try:
                message, sender = made.recvfrom(65536)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    _log.warning("what the kernel tells of partitions can not be read: %s", error)
                    break
                lost = True
            else:
                if sender[0] == 0 and (found := _PARTITION.search(message)):
                    changed[found[1].decode()] = None
        if lost:
            self._lost()
            return
        for loop in changed:
            self._told(loop)
