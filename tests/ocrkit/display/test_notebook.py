"""Cells' output; what a running kernel is asked is tested in tests/end_to_end/test_widgets.py."""

from types import SimpleNamespace

from ocrkit.display import notebook
from ocrkit.display.notebook import Shown, widget_bundle


def test_a_cell_shows_html_and_a_terminal_text():
    shown = Shown("<b>1 < 2</b>", "plain")
    bundle = shown._repr_mimebundle_()
    assert repr(shown) == bundle["text/plain"] == "plain"
    assert bundle["text/html"].startswith("<style>") and "1 &lt; 2" in bundle["text/html"]


def test_widget_is_shown_with_its_static_fallback():
    bundle = widget_bundle(SimpleNamespace(model_id="abc"), Shown("x", "plain"))
    view = bundle.pop("application/vnd.jupyter.widget-view+json")
    assert view == {"version_major": 2, "version_minor": 0, "model_id": "abc"}
    assert bundle == Shown("x", "plain")._repr_mimebundle_()


def test_show_displays_in_a_notebook_and_prints_elsewhere(monkeypatch, capsys):
    shown, displayed = Shown("<b>1</b>", "1"), []
    notebook.show(shown)
    assert capsys.readouterr().out == "1\n"
    monkeypatch.setattr(notebook, "kernel", lambda: object())
    monkeypatch.setattr("IPython.display.display", displayed.append)
    notebook.show(shown)
    assert displayed == [shown] and capsys.readouterr().out == ""
