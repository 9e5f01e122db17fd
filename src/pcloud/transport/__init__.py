"""Ways to run resource operations in guests. `remote`: Pacemaker Remote, our agent's and Pacemaker's own protocol."""
