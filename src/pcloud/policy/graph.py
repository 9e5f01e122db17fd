"""The transition graph: what Pacemaker's scheduler wants done, and in which order.

Owns the graph's structs and the reader of its XML. Pure. The format is that of Pacemaker's controller: a graph is made of
*synapses*, each a set of actions that fire together once every action the synapse names as a *trigger* is confirmed.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from enum import StrEnum
from typing import cast

import msgspec
from lxml import etree

INFINITY = 1_000_000
"""Pacemaker's infinite score and priority."""

_META = "CRM_meta_"


class GraphError(ValueError):
    """This is not a transition graph."""


class ActionKind(StrEnum):
    """Who carries an action out."""

    RESOURCE = "rsc"
    """An operation on a resource, through its agent."""
    PSEUDO = "pseudo"
    """Nothing to do: a milestone that others wait for."""
    CLUSTER = "crm"
    """Something about a node or the history: fencing (`stonith`), `do_shutdown`, `clear_failcount` …"""


_KINDS = {"rsc_op": ActionKind.RESOURCE, "pseudo_event": ActionKind.PSEUDO, "crm_event": ActionKind.CLUSTER}


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """One action of a transition."""

    id: int
    kind: ActionKind
    task: str
    """The operation: `start`, `stop`, `monitor`, `cancel`, `promote`, `stonith` …"""
    key: str = ""
    """The operation's key, such as `web_httpd_monitor_10000`."""
    internal_key: str = ""
    """As `key`, with the instance name of a resource inside a clone; empty when it is the same."""
    resource: str = ""
    """Id of the primitive; empty for cluster actions, and the resource a pseudo action is about is in `key` only."""
    long_id: str = ""
    """The primitive's id with those of its containers, where it has any."""
    agent_class: str = ""
    provider: str = ""
    agent_type: str = ""
    node: str = ""
    """Name of the node it runs on; empty for pseudo actions."""
    node_id: str = ""
    router: str = ""
    """The cluster node that carries the connection when `node` is a remote or guest node."""
    interval_ms: int = 0
    timeout_ms: int = 0
    """0 when the graph gives none."""
    start_delay_ms: int = 0
    target_rc: int | None = None
    """The result code that is expected, when it is not simply success."""
    parameters: dict[str, str] = {}
    """What the agent gets."""
    meta: dict[str, str] = {}
    """Meta attributes, without their `CRM_meta_`."""
    downed: tuple[str, ...] = ()
    """Ids of the nodes that are gone after it (fencing)."""
    synapse: int
    priority: int = 0
    inputs: tuple[int, ...] = ()
    """Ids of the actions that must be confirmed before this one starts."""

    @property
    def pseudo(self) -> bool:
        """Tell whether there is nothing to do but to confirm it."""
        return self.kind is ActionKind.PSEUDO

    @property
    def can_fail(self) -> bool:
        """Tell whether those who wait for it go on when it fails."""
        return self.meta.get("op_allow_fail", "").lower() in ("true", "yes", "on", "1", "y")


class Graph(msgspec.Struct, frozen=True, kw_only=True):
    """A transition: all the actions of one decision, in the graph's order."""

    transition_id: int = -1
    actions: tuple[Action, ...] = ()
    batch_limit: int = 0
    """Actions to have in flight at once; 0 when the graph sets no limit."""
    recheck_by: int = 0
    """Time in seconds since the epoch at which the scheduler wants to be asked again; 0 when it does not."""
    cluster_delay_ms: int = 0
    fencing_timeout_ms: int = 0
    failed_start_fatal: bool = True
    """Whether one failed start bans a resource from its node (failed-start-offset is INFINITY)."""

    def ready(self, done: AbstractSet[int], begun: AbstractSet[int] = frozenset()) -> tuple[Action, ...]:
        """Return the actions that may start when those in `done` are confirmed and those in `begun` were started."""
        return tuple(
            action
            for action in self.actions
            if action.id not in done and action.id not in begun and all(cause in done for cause in action.inputs)
        )


def parse_graph(text: bytes) -> Graph:
    """Read a transition graph; GraphError when the text is something else."""
    # A parser of its own for each call: one that is shared keeps every attribute name and can not be used by two threads.
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False, remove_comments=True)
    try:
        root = etree.fromstring(text, parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise GraphError(f"the transition graph is not well-formed XML: {error}") from error
    if root.tag != "transition_graph":
        raise GraphError(f"a transition graph was expected, not <{root.tag}>")
    actions: list[Action] = []
    try:
        for synapse in root:
            if synapse.tag == "synapse":
                actions += _synapse(synapse)
        return Graph(
            transition_id=int(root.get("transition_id", "-1")),
            actions=tuple(actions),
            batch_limit=int(root.get("batch-limit", "0")),
            recheck_by=int(root.get("recheck-by", "0")),
            cluster_delay_ms=_milliseconds(root.get("cluster-delay", "")),
            fencing_timeout_ms=_milliseconds(root.get("stonith-timeout", "")),
            failed_start_fatal=root.get("failed-start-offset", "INFINITY") == "INFINITY",
        )
    except (KeyError, ValueError) as error:
        raise GraphError(f"the transition graph has an element that makes no sense: {error!r}") from error


def _synapse(element: etree._Element) -> list[Action]:
    number = int(element.attrib["id"])
    priority = int(element.get("priority", "0"))
    found: list[etree._Element] = []
    inputs: list[int] = []
    for part in element:
        if part.tag == "action_set":
            found += [each for each in part if each.tag in _KINDS]
        elif part.tag == "inputs":
            inputs += [int(cause.attrib["id"]) for trigger in part for cause in trigger]
    waits = tuple(inputs)
    return [_action(each, number, priority, waits) for each in found]


def _action(element: etree._Element, synapse: int, priority: int, inputs: tuple[int, ...]) -> Action:
    given = _attributes(element)
    parameters: dict[str, str] = {}
    meta: dict[str, str] = {}
    primitive: Mapping[str, str] = {}
    downed: tuple[str, ...] = ()
    for part in element:
        tag = part.tag
        if tag == "attributes":
            for name, value in _attributes(part).items():
                if name.startswith(_META):
                    meta[name[len(_META) :]] = value
                else:
                    parameters[name] = value
            for entry in part:  # a name that is no XML name stands in a child of its own
                if entry.tag == "param":
                    pair = _attributes(entry)
                    into = meta if pair["name"].startswith(_META) else parameters
                    into[pair["name"].removeprefix(_META)] = pair.get("value", "")
        elif tag == "primitive":
            primitive = _attributes(part)
        elif tag == "downed":
            downed = tuple(_attributes(node)["id"] for node in part if node.tag == "node")
    target = meta.get("op_target_rc")
    return Action(
        id=int(given["id"]),
        kind=_KINDS[element.tag],
        task=given["operation"],
        key=given.get("operation_key", ""),
        internal_key=given.get("internal_operation_key", ""),
        resource=primitive.get("id", ""),
        long_id=primitive.get("long-id", ""),
        agent_class=primitive.get("class", ""),
        provider=primitive.get("provider", ""),
        agent_type=primitive.get("type", ""),
        node=given.get("on_node", ""),
        node_id=given.get("on_node_uuid", ""),
        router=given.get("router_node", ""),
        interval_ms=int(meta.get("interval", "0")),
        timeout_ms=int(meta.get("timeout", "0")),
        start_delay_ms=int(meta.get("start_delay", "0")),
        target_rc=int(target) if target is not None else None,
        parameters=parameters,
        meta=meta,
        downed=downed,
        synapse=synapse,
        priority=priority,
        inputs=inputs,
    )


def _attributes(element: etree._Element) -> Mapping[str, str]:
    """Return an element's attributes; the parser gives text for every name and value."""
    return cast("Mapping[str, str]", element.attrib)


def _milliseconds(text: str) -> int:
    """Read a duration as Pacemaker writes it in a graph: a number with `s`, `ms` or `m`; 0 when empty."""
    for unit, factor in (("ms", 1), ("s", 1000), ("m", 60_000), ("min", 60_000)):
        number = text.removesuffix(unit)
        if number != text and number.isdigit():
            return int(number) * factor
    return int(text) * 1000 if text else 0
