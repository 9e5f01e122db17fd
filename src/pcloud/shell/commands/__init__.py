"""The commands of `pcloud`, a module for each section of its help."""
