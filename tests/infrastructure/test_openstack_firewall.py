"""Security groups as Neutron has them: what a rule becomes, and what stays of a group whose rules change."""

from __future__ import annotations

import pytest

pytest.importorskip("openstack", reason="openstacksdk is not installed")

from pcloud.environment.infrastructure import InfrastructureError
from pcloud.infrastructure import openstack_firewall as firewall
from pcloud.model.deployable import FirewallRule

OUT = {("egress", family, None, None, None, None) for family in ("IPv4", "IPv6")}


@pytest.mark.parametrize(
    ("rule", "wanted"),
    [
        (FirewallRule(), {("ingress", family, None, None, None, None) for family in ("IPv4", "IPv6")}),
        (FirewallRule(protocol="tcp", first=80, network="0.0.0.0/0"), {("ingress", "IPv4", "tcp", 80, 80, None)}),
        (FirewallRule(protocol="udp", first=1, last=9, network="10.0.0.0/8"),
         {("ingress", "IPv4", "udp", 1, 9, "10.0.0.0/8")}),
        (FirewallRule(protocol="tcp", network="::/0"), {("ingress", "IPv6", "tcp", None, None, None)}),
        (FirewallRule(protocol="icmp"),
         {("ingress", "IPv4", "icmp", None, None, None), ("ingress", "IPv6", "ipv6-icmp", None, None, None)}),
    ],
)  # fmt: skip
def test_rules(rule, wanted):
    assert firewall.wanted([rule]) == wanted | OUT


def test_one_outward_rule_ends_what_else_goes_out():
    rules = firewall.wanted([FirewallRule(direction="out", protocol="tcp", first=443, network="10.1.0.0/16")])
    assert rules == {("egress", "IPv4", "tcp", 443, 443, "10.1.0.0/16")}


def test_a_rule_that_names_a_group_is_never_taken_for_one_that_names_nobody():
    with pytest.raises(InfrastructureError, match="names a group"):
        firewall.wanted([FirewallRule(protocol="tcp", first=80, group="sg-1")])


def test_no_rules_let_nothing_in_and_none_everything():
    assert firewall.wanted([]) == OUT
    assert firewall.wanted(None) == firewall.wanted([FirewallRule()])
