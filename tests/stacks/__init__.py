"""Tests of stacks and of their HTTP interfaces."""
