"""Network filters of libvirt as documents: what a rule becomes, in which order, and for which protocol family."""

from __future__ import annotations

import pytest
from lxml import etree

pytest.importorskip("libvirt", reason="libvirt-python is not installed (make setup-libvirt)")

from pcloud.environment.infrastructure import InfrastructureError
from pcloud.infrastructure import libvirt_firewall as firewall
from pcloud.infrastructure import libvirt_xml as xml
from pcloud.model.deployable import FirewallRule

Rule = tuple[str, str, str, dict[str, str]]


def rules(given: list[FirewallRule] | None) -> list[Rule]:
    """Return (action, direction, protocol, attributes) in the order in which libvirt asks them."""
    root = etree.fromstring(firewall.document("pcloud-shop.web", given, "10.120.0.1").encode())
    assert root.get("name") == "pcloud-shop.web"
    found = sorted(root.findall("rule"), key=lambda each: int(each.get("priority")))
    return [(each.get("action"), each.get("direction"), each[0].tag, dict(each[0].attrib)) for each in found]


def test_what_no_rule_lets_in_stays_out_and_this_host_keeps_its_way():
    found = rules([FirewallRule(protocol="tcp", first=80, last=90, network="10.0.0.0/8")])
    host = {"srcipaddr": "10.120.0.1", "srcipmask": "32"}
    managed = [("accept", "in", "tcp", {**host, "dstportstart": port, "dstportend": port}) for port in ("22", "3121")]
    assert found[:2] == managed
    ports = {"dstportstart": "80", "dstportend": "90"}
    assert found[2] == ("accept", "in", "tcp", {"srcipaddr": "10.0.0.0", "srcipmask": "8", **ports})
    assert found[3:5] == [("accept", "out", "all", {}), ("accept", "out", "all-ipv6", {})]
    assert found[-2:] == [("drop", "inout", "all", {}), ("drop", "inout", "all-ipv6", {})]
    assert len(found) == 8


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [
        (FirewallRule(), {("in", "all"), ("in", "all-ipv6")}),
        (FirewallRule(network="0.0.0.0/0", protocol="udp", first=53), {("in", "udp")}),
        (FirewallRule(network="::/0", protocol="icmp"), {("in", "icmpv6")}),
        (FirewallRule(protocol="icmp"), {("in", "icmp"), ("in", "icmpv6")}),
    ],
)
def test_families(rule, wanted):
    plain = rules([])
    assert {(direction, tag) for _, direction, tag, _ in rules([rule]) if (direction, tag) != ("inout", "icmpv6")} - {
        (direction, tag) for _, direction, tag, _ in plain if direction != "in" or tag != "tcp"
    } - {("in", "tcp")} == wanted


def test_one_outward_rule_ends_what_else_goes_out_but_the_way_to_this_host():
    found = [each for each in rules([FirewallRule(direction="out", protocol="tcp", first=443)]) if each[1] == "out"]
    assert found[0] == ("accept", "out", "all", {"dstipaddr": "10.120.0.1", "dstipmask": "32"})
    assert {tag for _, _, tag, _ in found[1:]} == {"tcp", "tcp-ipv6"}


def test_a_rule_that_names_a_group_is_never_taken_for_one_that_names_nobody():
    with pytest.raises(InfrastructureError, match="names a group"):
        rules([FirewallRule(protocol="tcp", first=80, group="sg-1")])


def test_no_rules_at_all_let_everything_pass():
    assert ("accept", "in", "all", {}) in rules(None)
    assert ("accept", "out", "all", {}) in rules(None)


def test_a_network_card_is_given_its_filter_once():
    card = "<interface type='network'><mac address='52:54:00:00:00:01'/></interface>"
    changed = xml.interface_with_filter(f"<domain><devices>{card}</devices></domain>", "pcloud-shop.web")
    assert etree.fromstring(changed).find("filterref").get("filter") == "pcloud-shop.web"
    assert xml.interface_with_filter(f"<domain><devices>{changed}</devices></domain>", "pcloud-shop.web") == ""
