"""Drivers that create, destroy, watch and locate guests; `registry.open_infrastructure` makes one by its name."""
