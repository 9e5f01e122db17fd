"""Documents that several rooms' tests are about: the manifest of the shop, and the acceptance script of the shell."""

SHOP = """\
deployable: shop
infrastructure: lxc
assemblies:
  db:
    image: bookworm
    packages: [mariadb-server]
    resources:
      mysqld: {template: mysqld, monitor: 10s}
  web:
    image: bookworm
    after: [db]
    packages: [apache2]
    files:
      /var/www/html/index.html: "shop\\n"
    resources:
      httpd:
        template: httpd
        monitor: 10s
        parameters: {db_host: {reference: db.ipaddress}}
        escalation: {failures: 3, period: 60s}
    escalation: {failures: 3, period: 600s}
"""

ACCEPTANCE = """\
jeos_create bookworm x86_64
assembly_create assy1 bookworm x86_64
assembly_clone assy1 assy2
assembly_clone assy1 assy3
assembly_resource_add httpd httpd assy1
assembly_resource_add httpd httpd assy2
assembly_resource_add httpd httpd assy3
deployable_create dep1
deployable_assembly_add dep1 assy1
deployable_assembly_add dep1 assy2
deployable_assembly_add dep1 assy3
deployable_start dep1
"""
