"""What names, paths and words of the model look like, and how long they may be: the one owner of these patterns.

Pure data. The readers, the validation and the JSON Schema use these; nothing else may invent a pattern of its own.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

GUEST_NAME = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
"""Deployables and assemblies: an assembly's name becomes a host name, so the rule is that of a DNS label."""
RESOURCE_NAME = r"[A-Za-z0-9_-]{1,64}"
PARAMETER_NAME = r"[A-Za-z_][A-Za-z0-9_]{0,63}"
"""Parameters become environment variables (`OCF_RESKEY_…`), so no dash and no dot."""
WORD = r"[a-z][a-z0-9_-]{0,62}"
"""Infrastructures, transports and the like."""
TEMPLATE_NAME = r"[a-z0-9][a-z0-9_.-]{0,62}"
IMAGE_NAME = r"[A-Za-z0-9]([A-Za-z0-9_.:-]{0,126}[A-Za-z0-9])?"
HOST_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"
"""Of hosts in the configuration; part of a file's name."""
ARCHITECTURE = r"[a-z0-9_]{1,32}"
PACKAGE = r"[A-Za-z0-9][A-Za-z0-9+._:=~^-]{0,254}"
"""A leading dash would be an option of the package manager; a slash would be a file."""
AGENT_PROVIDER = r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}"
AGENT_TYPE = r"[A-Za-z0-9_]([A-Za-z0-9_.@\\-]{0,126}[A-Za-z0-9_@])?"
"""A file name in the agents' folder, or a systemd unit: no slash, no leading or trailing dot."""
USER_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}"
OWNER = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,31})?"
UUID = r"[A-Za-z0-9][A-Za-z0-9-]{0,63}"
VOLUME = r"[a-z0-9][a-z0-9-]{0,62}"
"""Part of a file's name."""
DISK = r"/dev/(?:s|v|xv|h)d[a-z]{1,2}"
"""What a volume is in a guest; it goes into a script that runs as root, so nothing but letters."""
PROCESS = r"[A-Za-z0-9_.:+@-]{1,64}"
IDENTIFIER = r"[A-Za-z_][A-Za-z0-9_.-]{0,191}"
"""Of constraints; they become XML ids in the CIB."""
ABSOLUTE_PATH = r"(/(?!\.{1,2}(/|$))[^/\x00-\x1f]{1,255}){1,64}"
"""Normal form: no empty, `.` or `..` component, no slash at the end."""

RESERVED_GUEST_NAMES = frozenset({"localhost"})
RESERVED_PARAMETER_PREFIXES = ("CRM_meta_", "OCF_")
"""Pacemaker's executor gives these to agents itself; a user's value would shadow its own."""

RESOURCE_CLASSES = ("ocf", "systemd", "lsb", "service")
ATTRIBUTES = ("ipaddress", "hostname")
"""What a parameter may refer to of an assembly."""

MAX_GUEST_ID = 127
"""`DEPLOYABLE.ASSEMBLY`: two labels of 63 characters and a dot just fit."""

FORBIDDEN_CHARACTERS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
"""Characters that XML 1.0 can not carry: no string of a document may hold one, so that every document can be written
in every form (a NUL could not be passed to a program either)."""


def matches(pattern: str, text: str) -> bool:
    """Whether the whole text is of the pattern."""
    return re.fullmatch(pattern, text) is not None


def guest_id(deployable: str, assembly: str) -> str:
    """The id that infrastructures know a guest by: `DEPLOYABLE.ASSEMBLY`."""
    return f"{deployable}.{assembly}"


def closest(word: str, known: Iterable[str]) -> str:
    """A hint that names the closest known word; empty where none is close."""
    close = difflib.get_close_matches(word[:64], sorted(known), n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else ""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint that names the closest known word, or what is known where that is short, or nothing."""
    words = sorted(known)
    if close := closest(word, words):
        return close
    if 0 < len(words) <= 24:
        return f"known here: {', '.join(words)}"
    return ""
