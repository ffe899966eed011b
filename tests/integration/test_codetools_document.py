# ruff: noqa: Q000 - its quotes are the document's
"""The unit test of the document on asynchronous execution, as it stands there."""

import pytest

from saggar import CodeTools
from saggar.config import load
from saggar.jobs import broker, submission


@pytest.fixture(autouse=True)
def _broker_of_our_own(tmp_path, monkeypatch):
    """A broker and a worker that are there for this test only."""
    for name in ("CELERY_BROKER_URL", "CELERY_RESULT_BACKEND", "SAGGAR_BROKER_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SAGGAR_STATE_DIR", str(tmp_path))
    name = load().model_dump_json()
    yield
    submission._desks.pop(name).close()
    broker.disown(tmp_path)


# fmt: off
def test_async_execution():
    code = "print('Hello, World!')"

    result = CodeTools.execute_code(code, async_mode=True)

    assert result['success'] is True
    assert 'Hello, World!' in result['stdout']
    assert result['task_id'] is not None
    assert result['execution_time_ms'] < 5000
