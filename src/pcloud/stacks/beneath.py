"""What a nested stack is made from, and whether that is other than before. Pure.

A nested source carries every file that was sent, of which most may be others' matter. The files that count are those whose
name stands in the template, in a file that counts, in the parameters or in the registry: more than are needed now and then,
never fewer, since a name that a function makes up lets all of them count.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from pcloud.stacks.records import Source

_MADE_UP = re.compile(r"""\bget_file\b["']?\s*:\s*(?:[{\n]|$)""")


def files_of(source: Source) -> Mapping[str, str]:
    """Return the files that may count for what a source makes."""
    pending = [source.template, json.dumps(source.parameters), json.dumps(source.registry)]
    found: dict[str, str] = {}
    while pending:
        text = pending.pop()
        if _MADE_UP.search(text):
            return source.files
        for name, content in source.files.items():
            if name not in found and name in text:
                found[name] = content
                pending.append(content)
    return found


def alike(left: Source, right: Source) -> bool:
    """Whether two sources say the same beside the parameters: template, registry and the files that count."""
    if left.template != right.template or left.registry != right.registry:
        return False
    return left.files == right.files or files_of(left) == files_of(right)
