#!/bin/sh
# The agent, as its unit runs it.
exec /usr/bin/python3 -I -S -OO /usr/lib/pcloud/pcloud/agent/boot.py "$@"
