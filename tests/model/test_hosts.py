"""Assemblies that are hosts: what a document must say of them, and every form reads back what was written."""

from __future__ import annotations

import pytest

from pcloud.model.errors import InvalidDocument
from pcloud.model.manifest import read_json, read_manifest, write_json, write_manifest
from pcloud.model.xml import read_xml, write_xml

MANIFEST = """\
deployable: shop
infrastructure: hosts
monitor: pm
assemblies:
  db: {host: Rack1.db_1, image: bookworm, resources: {front: {template: nginx}}}
  web: {host: web1, transport: remote, after: [db], resources: {thing: {class: systemd, type: thing}}}
"""


def test_hosts_are_read_and_written_in_every_form() -> None:
    read = read_manifest(MANIFEST)
    assert [(one.host, one.image, one.transport) for one in read.assemblies] == [
        ("Rack1.db_1", "bookworm", "ssh"),
        ("web1", "", "remote"),
    ]
    assert read_manifest(write_manifest(read)) == read
    assert read_json(write_json(read)) == read
    assert read_xml(write_xml(read)) == read


@pytest.mark.parametrize(
    ("before", "after", "code", "path"),
    [
        ("host: web1, ", "", "MISSING_KEY", "assemblies.web"),
        ("infrastructure: hosts", "infrastructure: openstack", "CONFLICTING_KEYS", "assemblies.db.host"),
        ("host: web1", "host: Rack1.db_1", "DUPLICATE_NAME", "assemblies"),
        ("host: web1", "host: ../web1", "INVALID_VALUE", "assemblies.web.host"),
        ("host: web1", "host: web1, packages: [apache2]", "CONFLICTING_KEYS", "assemblies.web.packages"),
        ("host: web1", "host: web1, files: {/etc/motd: x}", "CONFLICTING_KEYS", "assemblies.web.files"),
        ("host: web1", "host: web1, commands: [[reboot]]", "CONFLICTING_KEYS", "assemblies.web.commands"),
        ("host: web1", "host: web1, memory: 64M", "CONFLICTING_KEYS", "assemblies.web.memory"),
    ],
)
def test_what_can_not_be(before: str, after: str, code: str, path: str) -> None:
    with pytest.raises(InvalidDocument) as caught:
        read_manifest(MANIFEST.replace(before, after))
    assert (code, path) in [(problem.code, problem.path) for problem in caught.value.problems]
