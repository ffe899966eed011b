import pytest

from saggar.errors import InvalidTask
from saggar.model import Environment, Mount


@pytest.mark.parametrize(
    "package",
    [
        "numpy",
        "numpy==2.*",
        "numpy >= 1, < 3",
        "discord.py",
        "uvicorn[standard]>=0.30",
        "tomli; python_version < '3.11'",
        "zope.interface~=7.0",
        "thing @ https://example.org/thing-1.0-py3-none-any.whl",
        "thing @ git+https://example.org/thing.git@v1",
    ],
)
def test_a_requirement_is_taken_as_it_is(package):
    assert (package,) == Environment(packages=(package,)).packages


@pytest.mark.parametrize(
    "package",
    [
        "",
        "-r requirements.txt",
        "--index-url=https://example.org",
        "-e .",
        "numpy --index-url https://example.org",
        "numpy\t-e .",
        "numpy\n--pre",
        "numpy\r\nother",
        "numpy\0",
        "numpy\u2028--pre",
        ".",
        "./evil",
        "../evil",
        "/tmp/evil",
        "~/evil",
        "evil/project",
        "numpy scipy",
        "evil-1.0-py3-none-any.whl",
        "evil.tar.gz",
        "evil @ file:///tmp/evil",
        "evil @ ./evil",
        "evil @ /tmp/evil",
        "évil",
        "x" * 2000,
        " " * 900 + "x" + " " * 900 + "y",
    ],
)
def test_nothing_but_a_package_gets_through(package):
    with pytest.raises(InvalidTask, match=r"^environment\.packages\.0: "):
        Environment(packages=(package,))


@pytest.mark.parametrize("module", ["", "a b", "a;b", "a..b", ".a", "1a", "a\nb", "import os"])
def test_what_is_preloaded_is_a_module(module):
    with pytest.raises(InvalidTask, match="wanted a module"):
        Environment(preload=(module,))


@pytest.mark.parametrize(
    ("expected", "python"), [("3.12", "3.12"), ("/opt/python", "/opt//x/../python")]
)
def test_an_interpreter_is_a_version_or_a_path(expected, python):
    assert expected == Environment(python=python).python


@pytest.mark.parametrize("python", ["", "-c", "python3", "bin/python", "3.12; x", "/a\nb"])
def test_an_interpreter_that_could_be_anything_is_refused(python):
    with pytest.raises(InvalidTask, match=r"^environment\.python: "):
        Environment(python=python)


def test_a_mount_has_one_spelling():
    mount = Mount(source="//data/./a/../b/", target="/data//b")

    assert ("/data/b", "/data/b") == (mount.source, mount.target)


@pytest.mark.parametrize("target", ["/", "/proc", "/proc/self", "/sys/fs", "/dev/shm", "/a/../dev"])
def test_nothing_is_mounted_over_what_the_walls_are_made_of(target):
    with pytest.raises(InvalidTask, match="nothing can be mounted"):
        Mount(source="/data", target=target)


def test_the_host_environment_has_the_packages_of_the_host_and_nothing_else():
    assert Environment(host_packages=True) == Environment.host()


DIGEST = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    "image",
    [
        "alpine",
        "saggar/runner-node:latest",
        "registry.example:5000/team/app_x/y-z:1.2",
        f"app@sha256:{DIGEST}",
        f"sha256:{DIGEST}",
    ],
)
def test_an_image_is_named_as_engines_name_it(image):
    assert image == Environment(image=image).image


@pytest.mark.parametrize(
    "image", ["", "Alpine", "a b", "-v", "../x", "a:", "a@sha256:1", "a:t\n", "http://x/y", "a//b"]
)
def test_what_an_engine_would_not_take_for_an_image_is_refused(image):
    with pytest.raises(InvalidTask, match="wanted an image such as"):
        Environment(image=image)


@pytest.mark.parametrize("package", ["ffmpeg", "g++", "libstdc++6", "libc6:i386", "jq=1.6-2.1+b1"])
def test_a_system_package_is_named_as_debian_does(package):
    assert (package,) == Environment(system_packages=(package,)).system_packages


@pytest.mark.parametrize(
    "package", ["", "-o=Dir::Etc=/x", "a b", "ffmpeg-", "./x.deb", "/x", "task^", "x/sid", "X", "*"]
)
def test_what_apt_takes_for_something_else_is_no_system_package(package):
    with pytest.raises(InvalidTask, match="system_packages"):
        Environment(system_packages=(package,))


@pytest.mark.parametrize("model", ["gpt2", "org/name", "org/name@v1.0", "org/name@refs/pr/1"])
def test_a_model_is_named_as_on_the_hub(model):
    assert (model,) == Environment(models=(model,)).models


@pytest.mark.parametrize(
    "model", ["", "a/b/c", "../x", "a..b", "-x", "a--b", "a/b@", "a@../x", "a@x/", "a b", "a/b\n"]
)
def test_what_could_be_a_path_is_no_model(model):
    with pytest.raises(InvalidTask, match="models"):
        Environment(models=(model,))
