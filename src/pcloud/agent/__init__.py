"""`pcloud-remoted`, the agent in the guest: runs resource operations there, and speaks Pacemaker Remote.

One process, one thread, one loop (`loop`); nothing here waits. `server` owns connections, `dispatch` what a message means,
`executor` the resources and their queues, `runner` the choice of class, `operation` one run of an agent, `programs` (OCF,
LSB) and `units` (systemd) the classes, `watch` the processes whose end triggers a monitor. Imports `pcloud.wire` and the
standard library only; runs on Python 3.9.
"""

VERSION = "0.1.0"
