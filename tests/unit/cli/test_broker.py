from saggar.cli.broker import plain, reached


def test_a_socket_is_reached_by_its_path():
    words, _ = reached("unix:///var/lib/saggar/redis.sock?db=1")

    assert ["-s", "/var/lib/saggar/redis.sock", "-n", "1"] == words


def test_a_password_is_in_no_command_line():
    words, environ = reached("rediss://app:s%40fe@cache.example.org:6380/2")

    assert ["-u", "rediss://cache.example.org:6380/2", "--user", "app"] == words
    assert "s@fe" == environ["REDISCLI_AUTH"]


def test_answers_are_lines():
    assert ["a", "1", "", "b"] == list(plain([b"a", 1, None, [b"b"]]))
    assert ["name", "value"] == list(plain({b"name": b"value"}))
