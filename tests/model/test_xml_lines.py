# ruff: noqa: E501 - tables read best with one row a line
"""Bad XML documents are refused with the code, the line, and the path that the same thing has in a manifest."""

from __future__ import annotations

import pytest

from pcloud.model.errors import InvalidDocument
from pcloud.model.xml import read_xml
from tests.model.original import ORIGINAL

TEXT = ORIGINAL.decode()
HTTPD = "assemblies.web.resources.httpd"

BAD = [
    ("deployable's name", 'name="shop"', 'name="Shop"', "INVALID_NAME", 1, "deployable"),
    ("monitoring", 'monitor="am"', 'monitor="xm"', "UNKNOWN_WORD", 1, "monitor"),
    ("priority", 'username="root"', 'priority="high"', "WRONG_TYPE", 1, "priority"),
    ("unknown attribute", 'username="root"', 'user="root"', "UNKNOWN_KEY", 1, ""),
    ("assembly's name", 'assembly name="web"', 'assembly name="../web"', "INVALID_NAME", 3, "assemblies.../web"),
    ("no assembly's name", 'assembly name="web" uuid', "assembly uuid", "MISSING_KEY", 3, ""),
    ("failures", 'escalation_failures="3"', 'escalation_failures="0"', "OUT_OF_RANGE", 3, "assemblies.web.escalation.failures"),
    ("period", 'escalation_period="10"', 'escalation_period="10 x"', "WRONG_TYPE", 3, "assemblies.web.escalation.period"),
    ("interval", 'monitor_interval="10"', 'monitor_interval="-1"', "OUT_OF_RANGE", 5, f"{HTTPD}.monitor.interval"),
    ("class", 'class="lsb" provider', 'class="upstart" provider', "UNKNOWN_WORD", 5, f"{HTTPD}.class"),
    ("type", 'type="httpd"', 'type="../httpd"', "INVALID_VALUE", 5, f"{HTTPD}.type"),
    ("no type", 'provider="pacemaker" type="httpd"', "", "MISSING_KEY", 5, HTTPD),
    ("no provider", 'class="lsb" provider="pacemaker"', 'class="ocf"', "MISSING_KEY", 5, HTTPD),
    ("parameter's name", 'parameter name="own"', 'parameter name="o-wn"', "INVALID_NAME", 8, f"{HTTPD}.parameters.o-wn"),
    ("executor's parameter", 'parameter name="own"', 'parameter name="OCF_x"', "RESERVED_NAME", 8, f"{HTTPD}.parameters.OCF_x"),
    ("unknown assembly", '<reference assembly="web"', '<reference assembly="wbe"', "UNKNOWN_ASSEMBLY", 8, f"{HTTPD}.parameters.own.reference"),
    ("unknown attribute of an assembly", 'parameter="hostname"', 'parameter="color"', "INVALID_REFERENCE", 8, f"{HTTPD}.parameters.own.reference"),
    ("parameter twice", 'parameter name="port"', 'parameter name="own"', "DUPLICATE_NAME", 9, ""),
    ("no value", "<value><![CDATA[80 <&]]></value>", "", "MISSING_KEY", 9, f"{HTTPD}.parameters.port"),
    ("two values", "</value>", '</value><reference assembly="web" parameter="hostname"/>', "CONFLICTING_KEYS", 9, f"{HTTPD}.parameters.port"),
    ("element in a value", "<![CDATA[80 <&]]>", "<b/>", "UNKNOWN_KEY", 9, ""),
    ("service twice", 'service name="crond"', 'service name="httpd"', "DUPLICATE_NAME", 12, ""),
    ("service's name", 'service name="crond"', 'service name="cro/nd"', "INVALID_NAME", 12, "assemblies.web.resources.cro/nd"),
    ("template", 'class="lsb" type="crond"', 'template="htpd"', "UNKNOWN_TEMPLATE", 12, "assemblies.web.resources.crond.template"),
    ("unknown element", "<constraints>", "<constraint/><constraints>", "UNKNOWN_KEY", 16, ""),
    ("unknown first", '"rsc_web_crond"', '"rsc_web_corn"', "UNKNOWN_RESOURCE", 16, "constraints.0.first"),
    ("after itself", '"rsc_web_crond"', '"rsc_web_httpd"', "SELF_REFERENCE", 16, "constraints.0.then"),
    ("no then", ' then="rsc_web_httpd"', "", "MISSING_KEY", 16, "constraints.0"),
    ("circle", "</constraints>", '<service_dependency first="web.httpd" then="web.crond"/></constraints>', "DEPENDENCY_CYCLE", 16, "constraints.0"),
    ("not closed", "</constraints>", "", "SYNTAX", 17, ""),
    ("unknown entity", "<value>", "<value>&x;", "SYNTAX", 9, ""),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "code", "line", "path"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_a_bad_document_is_refused_with_code_line_and_path(old: str, new: str, code: str, line: int, path: str) -> None:
    assert old in TEXT
    with pytest.raises(InvalidDocument) as caught:
        read_xml(TEXT.replace(old, new, 1), file="shop.xml", images_required=False)
    found = [(problem.code, problem.line, problem.path) for problem in caught.value.problems]
    assert (code, line, path) in found
    assert all(problem.file == "shop.xml" for problem in caught.value.problems)


def test_all_problems_of_a_document_come_at_once() -> None:
    text = TEXT
    for old, new in (
        ('interval="10"', 'interval="x"'),
        ('"crond" class', '"crond" klass'),
        ("rsc_web_crond", "rsc_x_y"),
    ):
        text = text.replace(old, new)
    with pytest.raises(InvalidDocument) as caught:
        read_xml(text)
    assert [(problem.line, problem.code) for problem in caught.value.problems] == [
        (3, "MISSING_IMAGE"),
        (5, "WRONG_TYPE"),
        (12, "UNKNOWN_KEY"),
        (12, "MISSING_KEY"),
        (16, "UNKNOWN_RESOURCE"),
    ]
