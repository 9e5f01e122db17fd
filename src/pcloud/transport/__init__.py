"""Ways to run resource operations in a guest: `remote` (Pacemaker Remote) and `ssh` (plain sshd)."""
