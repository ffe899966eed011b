"""Asserts in the shipped checks are to speak as those in tests do."""

import pytest

pytest.register_assert_rewrite("saggar.testing.conformance")
