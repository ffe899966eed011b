"""The workspace of an endpoint."""

import pytest

from saggar.environments.workspace import workspace
from saggar.errors import UsageError


def test_without_an_endpoint_it_is_the_cache(tmp_path):
    assert tmp_path == workspace(tmp_path, {})


def test_endpoints_have_one_each_that_stays(tmp_path):
    one, other = (workspace(tmp_path, {"RUNPOD_ENDPOINT_ID": name}) for name in ("ab12", "cd34"))

    assert one != other
    assert one.is_dir()
    assert one == workspace(tmp_path, {"RUNPOD_ENDPOINT_ID": "ab12"})


def test_it_is_on_the_volume_where_there_is_one(tmp_path):
    (tmp_path / "volume").mkdir()
    folder = workspace(tmp_path, {"RUNPOD_ENDPOINT_ID": "ab12"}, tmp_path / "volume")

    assert tmp_path / "volume" / "saggar" / "endpoints" / "ab12" == folder


@pytest.mark.parametrize("name", ["..", "a/b", ".a", "a b", "a" * 65])
def test_what_is_no_name_is_refused(tmp_path, name):
    with pytest.raises(UsageError, match="RUNPOD_ENDPOINT_ID: wanted letters"):
        workspace(tmp_path, {"RUNPOD_ENDPOINT_ID": name})
