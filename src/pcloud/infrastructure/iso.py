"""A small ISO 9660 image from a few files in memory, for cloud-init's NoCloud seed.

Pure. Written by hand because it is a page: one folder, names with Rock Ridge so that `meta-data` keeps its name, no
program of the host. Source: ECMA-119; Rock Ridge (SUSP `SP`, RRIP `PX`, `NM`).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

_SECTOR = 2048
_RRIP = b"ER\x12\x01\x0a\x00\x00\x01RRIP_1991A"
_DATE = bytes((70, 1, 1, 0, 0, 0, 0))


def iso_image(label: str, files: Mapping[str, bytes]) -> bytes:
    """Return the image. Names have at most 64 characters, all files together less than 1 MiB."""
    if sum(map(len, files.values())) > 1024 * 1024 or any(not 0 < len(name) <= 64 for name in files):
        raise ValueError("too much for a seed")
    first = 21  # 16 descriptors, 17 end, 18 and 19 path tables, 20 the folder
    records = [
        _record(b"\0", 20, _SECTOR, folder=True, extra=b"SP\x07\x01\xbe\xef\0" + _permissions(0o040755) + _RRIP),
        _record(b"\1", 20, _SECTOR, folder=True),
    ]
    content = b""
    for number, (name, data) in enumerate(sorted(files.items())):
        extra = _permissions(0o100400) + b"NM" + bytes((5 + len(name), 1, 0)) + name.encode("ascii")
        records.append(_record(b"F%d.;1" % number, first + len(content) // _SECTOR, len(data), extra=extra))
        content += data + b"\0" * (-len(data) % _SECTOR)
    folder = b"".join(records)
    if len(folder) > _SECTOR:
        raise ValueError("too many files for a seed")
    sectors = first + len(content) // _SECTOR
    path_table = {order: struct.pack(f"{order}BBIH", 1, 0, 20, 1) + b"\0\0" for order in "<>"}
    blocks = [_descriptor(label, sectors, len(path_table["<"])), b"\xffCD001\x01", *path_table.values(), folder]
    return bytes(16 * _SECTOR) + b"".join(block.ljust(_SECTOR, b"\0") for block in blocks) + content


def _descriptor(label: str, sectors: int, table: int) -> bytes:
    root = _record(b"\0", 20, _SECTOR, folder=True)
    never = b"0" * 16 + b"\0"
    return b"".join(
        (
            b"\x01CD001\x01\0", b" " * 32, label.encode("ascii").ljust(32), bytes(8), _both("I", sectors), bytes(32),
            _both("H", 1), _both("H", 1), _both("H", _SECTOR), _both("I", table),
            struct.pack("<I", 18), bytes(4), struct.pack(">I", 19), bytes(4), root, b" " * (128 * 4), b" " * (37 * 3),
            never * 4, b"\x01\0",
        )
    )  # fmt: skip


def _record(name: bytes, sector: int, size: int, *, folder: bool = False, extra: bytes = b"") -> bytes:
    padded = name if len(name) % 2 else name + b"\0"
    body = b"".join(
        (b"\0", _both("I", sector), _both("I", size), _DATE, b"\x02" if folder else b"\0", b"\0\0", _both("H", 1),
         bytes((len(name),)), padded, extra)
    )  # fmt: skip
    body += b"\0" * ((len(body) + 1) % 2)
    return bytes((len(body) + 1,)) + body


def _permissions(mode: int) -> bytes:
    return b"PX\x24\x01" + _both("I", mode) + _both("I", 1) + _both("I", 0) + _both("I", 0)


def _both(kind: str, value: int) -> bytes:
    return struct.pack(f"<{kind}", value) + struct.pack(f">{kind}", value)
