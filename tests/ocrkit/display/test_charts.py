import re

from markupsafe import Markup

from ocrkit.display.charts import begun_at, learning_curves, line_chart


def test_a_chart_draws_every_line_within_its_frame():
    lines = [("base", [(0, 1.0), (10, 0.25)]), ("tuned", [(0, 0.5), (10, 0.0)])]
    chart = line_chart("CER", lines, "step", percent=True)
    paths = re.findall(r'<polyline class="line s(\d)" points="([^"]+)"><title>(\w+)', chart)
    assert [(number, name) for number, _, name in paths] == [("0", "base"), ("1", "tuned")]
    first = [tuple(map(float, point.split(","))) for point in paths[0][1].split()]
    assert first == [(52.0, 14.0), (588.0, 150.5)]
    assert "100 %" in chart and chart.count("<polyline") == 2 and "legend" in chart


def test_a_single_point_is_a_dot_and_names_are_escaped():
    chart = line_chart("<b>", [("x", [(3, 0.0)])], "step", percent=False)
    assert chart.count("<circle") == 1 and "<b>" not in chart and "&lt;b&gt;" in chart


def test_learning_curves_show_what_a_history_has():
    history = [
        {"step": 1, "loss": 2.0, "eval_cer": float("nan")},
        {"step": 2, "loss": 1.0, "eval_loss": 1.5},
    ]
    (chart,) = learning_curves(history)
    assert isinstance(chart, Markup) and "<figcaption>Loss</figcaption>" in chart
    assert ">eval loss</title>" in chart and learning_curves([]) == []


def test_history_begins_at_step_0_where_both_cers_are_known():
    history = [{"step": 2, "eval_cer": 0.5}]
    assert begun_at(0.75, history) == [{"step": 0, "eval_cer": 0.75}, *history]
    assert begun_at(None, history) == history
    assert begun_at(0.75, [{"step": 1, "loss": 2.0}]) == [{"step": 1, "loss": 2.0}]
