import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from saggar import config
from saggar.config import Settings
from saggar.errors import InvalidTask, PlatformError, UsageError
from saggar.model import Limits, Network, Policy


@pytest.fixture
def environ(monkeypatch):
    """No variables of ours but those a test sets."""
    for name in list(os.environ):
        if name.startswith(("SAGGAR_", "XDG_")):
            monkeypatch.delenv(name)
    return monkeypatch.setenv


def test_nothing_set_means_the_defaults(environ):
    assert Settings() == config.load()


def test_settings_come_from_the_environment(environ):
    environ("SAGGAR_DRIVER", "process")
    environ("SAGGAR_WARM", "8")
    environ("SAGGAR_CACHE_DIR", "/somewhere")
    environ("SAGGAR_CEILING__NETWORK", "loopback")
    environ("SAGGAR_CEILING__LIMITS__MEMORY", "1GiB")

    ceiling = Policy(network=Network.LOOPBACK, limits=Limits(memory="1GiB"))
    expected = Settings(driver="process", warm=8, cache_dir=Path("/somewhere"), ceiling=ceiling)

    assert expected == config.load()


def test_a_bad_variable_is_a_usage_error_that_names_the_setting(environ):
    environ("SAGGAR_CEILING__LIMITS__MEMORY", "lots")

    with pytest.raises(UsageError, match=r"^SAGGAR_CEILING__LIMITS__MEMORY: wanted a size"):
        config.load()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("SAGGAR_WARM", "x", "SAGGAR_WARM: must be 'auto' or a whole number up to 1024, found 'x'"),
        ("SAGGAR_WARM", "1025", "SAGGAR_WARM: must be 'auto' or a whole number up to 1024"),
        ("SAGGAR_LOG_LEVEL", "loud", "SAGGAR_LOG_LEVEL: must be 'debug', 'info', 'warning' or"),
        ("SAGGAR_CEILING", "not json", "SAGGAR_CEILING: must be a valid dictionary"),
        ("SAGGAR_CEILING", '{"limits": {"wall": "x"}}', "SAGGAR_CEILING: limits.wall: wanted a ti"),
        ("SAGGAR_CEILING__LIMITS", "{", "SAGGAR_CEILING__LIMITS: must be JSON such as {"),
        ("SAGGAR_PRELOAD", "numpy", 'SAGGAR_PRELOAD: must be JSON such as ["one", "other"], found'),
        ("SAGGAR_CEILING__BEST_EFFORT", "disk", "SAGGAR_CEILING__BEST_EFFORT: must be JSON"),
        ("SAGGAR_CACHE_DIR", "layers", "SAGGAR_CACHE_DIR: must be an absolute path, found"),
        ("SAGGAR_RUNTIME_DIR", "./run", "SAGGAR_RUNTIME_DIR: must be an absolute path"),
    ],
)
def test_a_value_that_does_not_fit_is_told_with_its_variable_and_what_is_allowed(
    environ, name, value, said
):
    environ("SAGGAR_CEILING__MOUNTS", "[]")
    environ(name, value)
    with pytest.raises(UsageError) as refused:
        config.load()

    assert str(refused.value).startswith(said)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("SAGGAR_DRVIER", "no setting is named SAGGAR_DRVIER; did you mean SAGGAR_DRIVER?"),
        ("saggar_drvier", "no setting is named saggar_drvier; did you mean SAGGAR_DRIVER?"),
        ("SAGGAR_CIELING__NETWORK", "did you mean SAGGAR_CEILING__NETWORK?"),
        ("SAGGAR_CEILING_LIMITS_WALL", "did you mean SAGGAR_CEILING__LIMITS__WALL?"),
        ("SAGGAR_CEILING__LIMITS__MEMROY", "did you mean SAGGAR_CEILING__LIMITS__MEMORY?"),
        ("SAGGAR_DRIVER__X", "did you mean SAGGAR_DRIVER?"),
        ("SAGGAR_ZZZ", "there are: SAGGAR_CEILING, SAGGAR_DRIVER, "),
    ],
)
def test_a_variable_that_no_setting_has_is_refused_with_the_nearest(environ, name, said):
    """A ceiling that was misspelled would be none."""
    environ(name, "1MiB")
    with pytest.raises(UsageError) as refused:
        config.load()

    assert said in str(refused.value)


def test_a_variable_may_be_written_in_small_letters(environ):
    environ("saggar_ceiling__limits__memory", "1GiB")

    assert Settings(ceiling=Policy(limits=Limits(memory="1GiB"))) == config.load()


def test_what_the_shipped_suites_say_to_their_programs_sets_nothing(environ):
    for name in config.NOT_OURS:
        environ(name, "something")

    assert Settings() == config.load()


def test_the_shipped_suites_use_no_other_names_of_ours():
    folder = Path(config.__file__).parent / "testing"
    texts = [path.read_text() for path in folder.rglob("*.py")]
    used = {name for text in texts for name in re.findall(r"[\"'](SAGGAR_[A-Z_]+)", text)}

    assert used <= config.NOT_OURS | dict(config._variables(Settings, "SAGGAR_")).keys()


def test_a_setting_that_does_not_exist_is_refused():
    with pytest.raises(InvalidTask, match="did you mean 'driver'"):
        Settings(drivr="jail")  # type: ignore[call-arg]


def test_without_variables_of_ours_pydantic_settings_is_not_imported():
    code = """
import sys
from saggar import config
config.load(), config.cache_dir()
assert "pydantic_settings" not in sys.modules
"""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SAGGAR_")}
    run = subprocess.run(
        [sys.executable, "-c", code], env=kept, capture_output=True, text=True, check=False
    )

    assert (0, "") == (run.returncode, run.stderr)


def test_the_cache_is_where_xdg_says(environ, tmp_path):
    environ("XDG_CACHE_HOME", str(tmp_path))

    assert tmp_path / "saggar" == config.cache_dir()
    assert (tmp_path / "saggar").is_dir()


def test_a_relative_xdg_path_is_ignored(environ, tmp_path):
    environ("XDG_CACHE_HOME", "somewhere")
    environ("HOME", str(tmp_path))

    assert tmp_path / ".cache" / "saggar" == config.cache_dir()


def test_a_relative_home_makes_no_cache_where_one_happens_to_stand(environ, tmp_path, monkeypatch):
    environ("HOME", "somewhere")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"^HOME must be an absolute path.*SAGGAR_CACHE_DIR"):
        config.cache_dir()

    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["cache_dir", "runtime_dir"])
def test_a_relative_folder_is_refused(name):
    with pytest.raises(InvalidTask, match=rf"^settings\.{name}: must be an absolute path"):
        Settings(**{name: "below"})


def test_a_setting_goes_before_the_default(tmp_path):
    settings = Settings(cache_dir=tmp_path / "layers", runtime_dir=tmp_path / "run")

    assert tmp_path / "layers" == config.cache_dir(settings)
    assert tmp_path / "run" == config.runtime_dir(settings)


def test_the_runtime_folder_is_ours_alone(tmp_path):
    path = config.runtime_dir(Settings(runtime_dir=tmp_path / "run"))

    assert 0o700 == path.stat().st_mode & 0o777


def test_a_runtime_folder_that_others_could_enter_is_closed(tmp_path):
    tmp_path.chmod(0o755)

    path = config.runtime_dir(Settings(runtime_dir=tmp_path))

    assert 0o700 == path.stat().st_mode & 0o777


def test_a_runtime_folder_that_others_could_write_to_is_refused(tmp_path):
    tmp_path.chmod(0o770)

    with pytest.raises(PlatformError, match="not a folder that only we can write to"):
        config.runtime_dir(Settings(runtime_dir=tmp_path))


def test_a_link_is_not_taken_for_the_runtime_folder(tmp_path):
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "run").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(PlatformError, match="not a folder that only we"):
        config.runtime_dir(Settings(runtime_dir=tmp_path / "run"))


@pytest.mark.root
def test_a_runtime_folder_of_somebody_else_is_refused(tmp_path):
    tmp_path.chmod(0o700)
    os.chown(tmp_path, 12345, 12345)

    with pytest.raises(PlatformError, match="not a folder that only we"):
        config.runtime_dir(Settings(runtime_dir=tmp_path))


def test_a_folder_that_cannot_be_made_names_the_variable(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(PlatformError, match="SAGGAR_CACHE_DIR"):
        config.cache_dir(Settings(cache_dir=tmp_path / "file" / "below"))


def test_the_value_of_a_secret_is_no_setting(environ):
    environ("SAGGAR_SECRET_DB_URL", "sesame")
    environ("SAGGAR_SECRETS", '["DB_*"]')

    assert ("DB_*",) == config.load().secrets
    assert "sesame" == config.operators_secret("DB_URL")
    assert config.operators_secret("HOME") is None


def test_baked_mode_asks_its_operator_for_no_lists(monkeypatch):
    monkeypatch.setenv("TETRA_BAKED_MODE", "true")
    alone = config.load()
    monkeypatch.setenv("SAGGAR_CEILING__NETWORK", "host")
    below = config.load()

    assert (("*",), ("*",)) == (alone.models, alone.secrets)
    assert ((), ()) == (below.models, below.secrets), "his ceiling has his lists"
