"""Fixtures that every room's tests share."""

import pytest

# Contracts are modules of their own: their assertions shall tell what they saw, too.
pytest.register_assert_rewrite("tests.infrastructure.contract", "tests.transport.contract")
