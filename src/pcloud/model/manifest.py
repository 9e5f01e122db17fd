"""The manifest, read and written: YAML that people type, JSON that programs send. Pure; files are opened by the caller.

Reading collects all problems of a document before it raises. Writing is the inverse: what is read from a written
manifest equals what was written, and what is at its default is not written at all.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
import yaml

from pcloud.model.assemble import Assembler
from pcloud.model.deployable import Deployable
from pcloud.model.description import DEPLOYABLE
from pcloud.model.document import DEFAULT_LIMITS, Limits, Node, parse_yaml, scalar_kind
from pcloud.model.json_document import parse_json
from pcloud.model.kinds import INVALID
from pcloud.model.plain import to_plain
from pcloud.model.problems import Problems
from pcloud.model.templates import Catalogue, default_catalogue
from pcloud.model.validation import validate

_MISSING = ("MISSING_KEY", "MISSING_IMAGE")
"""What may only seem to be missing, because it stands there in a form that was refused or under a misspelt key."""


def read_manifest(
    text: bytes | str, *, file: str = "", catalogue: Catalogue | None = None, limits: Limits = DEFAULT_LIMITS
) -> Deployable:
    """Read a YAML manifest; InvalidDocument with every problem, each with file, line, column and path."""
    problems = Problems(file)
    return read_tree(parse_yaml(text, problems, limits), problems, catalogue)


def read_json(
    text: bytes | str, *, file: str = "", catalogue: Catalogue | None = None, limits: Limits = DEFAULT_LIMITS
) -> Deployable:
    """Read a manifest in JSON form; InvalidDocument with every problem, each with file, line, column and path."""
    problems = Problems(file)
    return read_tree(parse_json(text, problems, limits), problems, catalogue)


def read_tree(
    root: Node, problems: Problems, catalogue: Catalogue | None = None, *, images_required: bool = True
) -> Deployable:
    """Turn a document's tree into a deployable; what was noted while the tree was made counts too."""
    known = catalogue or default_catalogue()
    problems.positions[""] = root.at
    values = DEPLOYABLE.read(root, "", problems)
    if values is INVALID:
        problems.raise_if_any()
    deployable = Assembler(problems, known).deployable(values)
    # A part whose form is wrong is not complained about a second time for what follows from that.
    wrong = {problem.path for problem in problems.found}
    around = {path.rpartition(".")[0] for path in wrong}
    problems.extend(
        [
            problem
            for problem in validate(deployable, catalogue=known, images_required=images_required)
            if problem.path not in wrong and not (problem.code in _MISSING and problem.path in around)
        ]
    )
    problems.raise_if_any()
    return deployable


def write_manifest(deployable: Deployable, *, redacted: bool = False, catalogue: Catalogue | None = None) -> str:
    """Write the YAML manifest. Secrets are in it, it is the document; `redacted` hides them, for people's eyes."""
    plain = to_plain(deployable, catalogue or default_catalogue(), redacted=redacted)
    text: str = yaml.dump(
        plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120, default_flow_style=False
    )
    return text


def write_json(deployable: Deployable, *, redacted: bool = False, catalogue: Catalogue | None = None) -> str:
    """Write the manifest in JSON form; `redacted` hides secrets."""
    plain = to_plain(deployable, catalogue or default_catalogue(), redacted=redacted)
    return msgspec.json.format(msgspec.json.encode(plain), indent=2).decode() + "\n"


def checked(deployable: Deployable, *, catalogue: Catalogue | None = None) -> Deployable:
    """Return a deployable that was built by hand once it passed every check a manifest passes; else InvalidDocument."""
    return read_json(write_json(deployable, catalogue=catalogue), catalogue=catalogue)


class _Dumper(yaml.SafeDumper):
    """PyYAML's, with text quoted by our reader's rules as well as by YAML 1.1's, and blocks for text of several lines."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


_BREAKS = re.compile("[\r\x85\u2028\u2029\ufeff]")


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None
    if _BREAKS.search(text):
        # YAML 1.1 breaks lines at these too, and would fold them.
        style = '"'
    elif "\n" in text:
        style = "|"
    elif scalar_kind(text) != "text" or text == "<<":
        style = '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
