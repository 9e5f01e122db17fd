"""The Pacemaker Remote protocol on the wire, shared by the agent in the guest and the transport on our side.

`gnutls` (TLS with a pre-shared key of any size), `frame` (the 40-byte header and its payload), `messages` (the XML inside).
Nothing here reads a socket by itself, waits, or keeps a thread: callers own the loop. Imports nothing of ours and only the
standard library, and runs on Python 3.9: the folder is copied into bare guests together with the agent.
"""
