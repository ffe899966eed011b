from saggar.cli.gc import as_json, report


def test_what_was_removed_is_counted_by_kind():
    swept = {"cgroups": 3, "uid_leases": 1, "layers": 0}

    assert "cgroups: 3 removed\nuid leases: 1 removed" == report(swept)


def test_nothing_is_said_to_be_nothing():
    assert "nothing to remove" == report({"layers": 0})


def test_programs_get_every_kind():
    assert '{"layers": 0}' == as_json({"layers": 0})
