from fusion.report.tasks_table import tasks_table


def difference(mean, low, high):
    return {"mean": mean, "low": low, "high": high}


FOUND = {
    "rule": "byte",
    "questions": {"calibration": 20, "picking": 10, "test": 100},
    "arms": [
        {
            "label": "a alone",
            "kind": "strand",
            "picking": {"x": 0.5, "y": 0.7},
            "test": {"byte": {"x": 0.4, "y": 0.6}, "sum": {"x": 0.1, "y": 0.1}},
        },
        {
            "label": "a + b (shuffled)",
            "kind": "braid",
            "picking": None,
            "test": {"byte": {"x": 0.125, "y": 0.25}, "sum": {"x": 0.1, "y": 0.1}},
        },
    ],
    "braid": "a + b",
    "strand of each set": {"x": "a, text", "y": "b, choice"},
    "differences": [
        {
            "against": "a alone",
            "mean": difference(0.02, -0.01, 0.05),
            "sets": {
                "x": difference(0.01, -0.02, 0.04),
                "y": difference(0.03, 0.0, 0.06),
            },
        }
    ],
    "questions per minute and arm": 123.4,
}


def test_the_table_line_by_line():
    assert tasks_table(FOUND).splitlines() == [
        "100 test questions, by byte; calibrated on 20, picked on 10 others",
        "",
        "right, in %          x     y  mean  when picked",
        "a alone           40.0  60.0  50.0         60.0",
        "a + b (shuffled)  12.5  25.0  18.8",
        "",
        "a + b less",
        "                         x                  y               mean",
        "a alone  +1.0 [-2.0, +4.0]  +3.0 [+0.0, +6.0]  +2.0 [-1.0, +5.0]",
        "",
        "best calibrated strand of each set: x: a, text; y: b, choice",
        "123 questions per minute and arm",
    ]
