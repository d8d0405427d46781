from braidbandit.cli.machine.doctor.finding import error, ok, warning


def test_only_what_is_wrong_has_a_fix():
    assert ok("a", "b").fix == ""
    assert (warning("a", "b", "c").level, error("a", "b", "c").level) == (
        "warning",
        "error",
    )
