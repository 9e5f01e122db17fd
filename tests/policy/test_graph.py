"""The reader of transition graphs."""

from __future__ import annotations

import pytest

from pcloud.policy.graph import ActionKind, GraphError, parse_graph

GRAPH = b"""<transition_graph cluster-delay="60s" stonith-timeout="90s" failed-stop-offset="INFINITY"
  failed-start-offset="1" batch-limit="4" transition_id="7" recheck-by="1500000000">
  <synapse id="0">
    <action_set>
      <rsc_op id="4" operation="monitor" operation_key="web_httpd_monitor_10000" on_node="web" on_node_uuid="2"
              internal_operation_key="web_httpd:0_monitor_10000" router_node="host">
        <primitive id="web_httpd" long-id="group:web_httpd" class="ocf" provider="heartbeat" type="apache"/>
        <attributes CRM_meta_interval="10000" CRM_meta_timeout="20000" CRM_meta_op_target_rc="7" port="80">
          <param name="a b" value="1"/>
        </attributes>
      </rsc_op>
    </action_set>
    <inputs><trigger><pseudo_event id="5" operation="start" operation_key="g_start_0"/></trigger></inputs>
  </synapse>
  <synapse id="1" priority="1000000">
    <action_set><pseudo_event id="5" operation="start" operation_key="g_start_0"><attributes/></pseudo_event></action_set>
    <inputs/>
  </synapse>
  <synapse id="2">
    <action_set>
      <crm_event id="6" operation="stonith" operation_key="stonith-web-off" on_node="web" on_node_uuid="2">
        <attributes CRM_meta_stonith_action="off"/><downed><node id="2"/></downed>
      </crm_event>
    </action_set>
    <inputs/>
  </synapse>
</transition_graph>"""


def test_every_field() -> None:
    graph = parse_graph(GRAPH)
    assert (graph.transition_id, graph.batch_limit, graph.recheck_by) == (7, 4, 1_500_000_000)
    assert (graph.cluster_delay_ms, graph.fencing_timeout_ms, graph.failed_start_fatal) == (60_000, 90_000, False)
    monitor, start, fence = graph.actions
    assert (monitor.id, monitor.kind, monitor.task, monitor.synapse) == (4, ActionKind.RESOURCE, "monitor", 0)
    assert (monitor.key, monitor.internal_key) == ("web_httpd_monitor_10000", "web_httpd:0_monitor_10000")
    assert (monitor.resource, monitor.long_id) == ("web_httpd", "group:web_httpd")
    assert (monitor.agent_class, monitor.provider, monitor.agent_type) == ("ocf", "heartbeat", "apache")
    assert (monitor.node, monitor.node_id, monitor.router) == ("web", "2", "host")
    assert (monitor.interval_ms, monitor.timeout_ms, monitor.target_rc) == (10_000, 20_000, 7)
    assert monitor.parameters == {"port": "80", "a b": "1"}
    assert monitor.meta == {"interval": "10000", "timeout": "20000", "op_target_rc": "7"}
    assert monitor.inputs == (5,)
    assert not monitor.pseudo
    assert start.pseudo
    assert start.priority == 1_000_000
    assert (fence.kind, fence.downed, fence.meta) == (ActionKind.CLUSTER, ("2",), {"stonith_action": "off"})


def test_ready() -> None:
    graph = parse_graph(GRAPH)
    assert [action.id for action in graph.ready(set())] == [5, 6]
    assert [action.id for action in graph.ready({5}, begun={6})] == [4]
    assert graph.ready({4, 5, 6}) == ()


def test_empty_graph() -> None:
    assert parse_graph(b"<transition_graph/>").actions == ()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"no xml",
        b"<cib/>",
        b"<transition_graph",
        b'<transition_graph transition_id="x"/>',
        b'<transition_graph><synapse id="0"><action_set><rsc_op id="1"/></action_set></synapse></transition_graph>',
        b'<transition_graph><synapse/><action_set><rsc_op id="1" operation="x"/></action_set></transition_graph>',
        b"<transition_graph><inputs/></transition_graph>",
        b'<transition_graph><synapse id="0"><inputs><trigger><rsc_op/></trigger></inputs></synapse></transition_graph>',
    ],
)
def test_what_is_no_graph(text: bytes) -> None:
    with pytest.raises(GraphError):
        parse_graph(text)


def test_entities_are_refused() -> None:
    entities = b'<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">'
    bomb = b"<!DOCTYPE x [" + entities + b"]><transition_graph>&b;</transition_graph>"
    with pytest.raises(GraphError, match="document type"):
        parse_graph(bomb)
