"""A document as the original project wrote them, and how it is read."""

from __future__ import annotations

from pcloud.model.deployable import Deployable
from pcloud.model.xml import read_xml

ORIGINAL = b"""\
<deployable name="shop" uuid="7f" monitor="am" username="root">
  <assemblies>
    <assembly name="web" uuid="1" escalation_failures="3" escalation_period="10">
      <services>
        <service name="httpd" class="lsb" provider="pacemaker" type="httpd" monitor_interval="10">
          <configure_executable url="/usr/bin/configure"/>
          <parameters>
            <parameter name="own" type="scalar"><reference assembly="web" parameter="hostname"/></parameter>
            <parameter name="port" type="scalar"><value><![CDATA[80 <&]]></value></parameter>
          </parameters>
        </service>
        <service name="crond" class="lsb" type="crond"/>
      </services>
    </assembly>
  </assemblies>
  <constraints><service_dependancy id="1" first="rsc_web_crond" then="rsc_web_httpd"/></constraints>
</deployable>
"""


def read_original(data: bytes | str) -> Deployable:
    """The original named images elsewhere."""
    return read_xml(data, images_required=False)
