"""What properties are before and after a planned change, as a change set may show them: without secrets. Pure.

A property is masked as a whole when what stands in its template names a parameter that is not shown, a resource that makes
a secret (a random text, a key, a URL that proves itself), or one that is given such: what functions make of those can not be
told apart from it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pcloud.model.errors import PcloudError
from pcloud.stacks.engine.scopes import Reader
from pcloud.stacks.functions.evaluation import Unknown
from pcloud.stacks.plan import Change
from pcloud.stacks.records import Source
from pcloud.stacks.template import Template

MASK = "****"
LATER = "{{changeSet:KNOWN_AFTER_APPLY}}"
"""CloudFormation's own words for a value that is not known yet."""
_MAKERS = frozenset(
    {
        "AWS::AutoScaling::ScalingPolicy",
        "AWS::CloudFormation::WaitConditionHandle",
        "AWS::IAM::AccessKey",
        "OS::Heat::AccessPolicy",
        "OS::Heat::HARestarter",
        "OS::Heat::RandomString",
        "OS::Heat::ScalingPolicy",
        "OS::Heat::UpdateWaitConditionHandle",
        "OS::Heat::WaitConditionHandle",
        "OS::Nova::KeyPair",
    }
)
"""Types that make secrets."""


class Values:
    """Shows properties of the stack as it is, and as a source wants it."""

    def __init__(self, reader: Reader, old: Source | None, new: Source) -> None:
        self._new = reader.template(new)
        self._old: Template | None = None
        if old is not None:
            try:
                self._old = reader.template(old)
            except PcloudError:
                self._old = None  # its text is of another version: nothing of before is shown

    def of(self, change: Change) -> dict[str, Any]:
        """Return `before` and `after` of one change, None where there is none."""
        return {
            "before": _shown(change.name, change.before, self._old),
            "after": _shown(change.name, change.after, self._new),
        }


def _shown(name: str, properties: Mapping[str, Any] | None, template: Template | None) -> dict[str, Any] | None:
    if properties is None or template is None:
        return None
    definition = template.resources.get(name)
    written = definition.properties if definition is not None else {}
    secrets = _secrets(template)
    function = not isinstance(written, dict) or (len(written) == 1 and not written.keys() & properties.keys())
    return {
        key: MASK if _names(written if function else written.get(key), secrets) else _plain(value)
        for key, value in properties.items()
    }


def _secrets(template: Template) -> frozenset[str]:
    """Return the words whose mention makes a value one that is not shown."""
    words = {name for name, schema in template.parameters.items() if schema.hidden}
    words |= {name for name, definition in template.resources.items() if definition.type in _MAKERS}
    while more := {
        name
        for name, definition in template.resources.items()
        if name not in words and _names(definition.properties, frozenset(words))
    }:
        words |= more
    return frozenset(words)


def _names(written: Any, words: frozenset[str]) -> bool:
    text = json.dumps(written, default=str)
    return any(word in text for word in words)


def _plain(value: Any) -> Any:
    if isinstance(value, Unknown):
        return LATER
    if isinstance(value, dict):
        return {_text(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    storable = value is None or isinstance(value, float) or (isinstance(value, int) and abs(value) < 1 << 63)
    return value if storable else _text(value)


def _text(value: Any) -> str:
    """Return text that can be stored, whatever half characters a template's escapes made."""
    return str(value).encode(errors="replace").decode()
