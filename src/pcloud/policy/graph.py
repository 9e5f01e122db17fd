"""The transition graph: what Pacemaker's scheduler wants done, and in which order.

Owns the graph's structs and the reader of its XML. Pure. The format is that of Pacemaker's controller: a graph is made of
*synapses*, each a set of actions that fire together once every action the synapse names as a *trigger* is confirmed.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from enum import StrEnum
from xml.parsers import expat

import msgspec

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
    """Read a transition graph; GraphError when the text is something else, or has a document type declaration."""
    reader = _Reader()
    parser = expat.ParserCreate("utf-8")
    parser.StartElementHandler = reader.start
    parser.StartDoctypeDeclHandler = _refuse_doctype
    parser.buffer_text = True
    try:
        parser.Parse(text, True)
        return reader.graph()
    except expat.ExpatError as error:
        raise GraphError(f"the transition graph is not well-formed XML: {error}") from error
    except GraphError:
        raise
    except (KeyError, ValueError) as error:
        raise GraphError(f"the transition graph has an element that makes no sense: {error!r}") from error


def _refuse_doctype(*_: object) -> None:
    raise GraphError("the transition graph has a document type declaration")


class _Open:
    """An action whose children are being read."""

    __slots__ = ("attributes", "downed", "kind", "meta", "parameters", "primitive")

    def __init__(self, kind: ActionKind, attributes: dict[str, str]) -> None:
        self.kind = kind
        self.attributes = attributes
        self.parameters: dict[str, str] = {}
        self.meta: dict[str, str] = {}
        self.primitive: dict[str, str] = {}
        self.downed: list[str] = []


class _Reader:
    """Takes the start of each element. The order of a synapse's parts is fixed (its actions, then its inputs), so that the
    ends are not needed, and no tree is built."""

    __slots__ = ("_actions", "_in_inputs", "_inputs", "_open", "_root", "_synapse")

    def __init__(self) -> None:
        self._root: dict[str, str] | None = None
        self._actions: list[Action] = []
        self._synapse: dict[str, str] = {}
        self._open: list[_Open] = []
        self._inputs: list[int] = []
        self._in_inputs = False

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """Take an element."""
        if self._root is None:
            if tag != "transition_graph":
                raise GraphError(f"a transition graph was expected, not <{tag}>")
            self._root = attributes
        elif tag == "synapse":
            self._finish_synapse()
            self._synapse = attributes
        elif tag == "inputs":
            self._in_inputs = True
        elif (kind := _KINDS.get(tag)) is not None:
            if self._in_inputs:
                self._inputs.append(int(attributes["id"]))
            else:
                self._open.append(_Open(kind, attributes))
        elif self._open and not self._in_inputs:
            self._part(self._open[-1], tag, attributes)

    def _part(self, action: _Open, tag: str, attributes: dict[str, str]) -> None:
        """Take a child of an action."""
        if tag == "attributes":
            for name, value in attributes.items():
                _put(action, name, value)
        elif tag == "param":  # a name that is no XML name stands in an element of its own
            _put(action, attributes["name"], attributes.get("value", ""))
        elif tag == "primitive":
            action.primitive = attributes
        elif tag == "node":
            action.downed.append(attributes["id"])

    def _finish_synapse(self) -> None:
        if self._open:
            number, priority = int(self._synapse["id"]), int(self._synapse.get("priority", "0"))
            inputs = tuple(self._inputs)
            self._actions += [_action(each, number, priority, inputs) for each in self._open]
        elif self._root is not None and self._in_inputs and "id" not in self._synapse:
            raise GraphError("inputs that belong to no synapse")
        self._open = []
        self._inputs = []
        self._in_inputs = False

    def graph(self) -> Graph:
        """Return what was read."""
        self._finish_synapse()
        root = self._root or {}
        return Graph(
            transition_id=int(root.get("transition_id", "-1")),
            actions=tuple(self._actions),
            batch_limit=int(root.get("batch-limit", "0")),
            recheck_by=int(root.get("recheck-by", "0")),
            cluster_delay_ms=_milliseconds(root.get("cluster-delay", "")),
            fencing_timeout_ms=_milliseconds(root.get("stonith-timeout", "")),
            failed_start_fatal=root.get("failed-start-offset", "INFINITY") == "INFINITY",
        )


def _put(action: _Open, name: str, value: str) -> None:
    if name.startswith(_META):
        action.meta[name[len(_META) :]] = value
    else:
        action.parameters[name] = value


def _action(read: _Open, synapse: int, priority: int, inputs: tuple[int, ...]) -> Action:
    given, primitive, meta = read.attributes, read.primitive, read.meta
    target = meta.get("op_target_rc")
    return Action(
        id=int(given["id"]),
        kind=read.kind,
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
        parameters=read.parameters,
        meta=meta,
        downed=tuple(read.downed),
        synapse=synapse,
        priority=priority,
        inputs=inputs,
    )


def _milliseconds(text: str) -> int:
    """Read a duration as Pacemaker writes it in a graph: a number with `s`, `ms` or `m`; 0 when empty."""
    for unit, factor in (("ms", 1), ("s", 1000), ("m", 60_000), ("min", 60_000)):
        number = text.removesuffix(unit)
        if number != text and number.isdigit():
            return int(number) * factor
    return int(text) * 1000 if text else 0
