import json

import plotly.graph_objects as go
import pytest

from raydd.charts.chart import chart, curves


def test_a_name_in_a_chart_cannot_end_the_script_that_holds_it():
    name = "</script><script>alert(1)</script>"
    figure = curves("id", "title", {name: [(0.0, 1.0)]}, "axis", "summary").figure
    assert "</" not in figure
    assert json.loads(figure)["data"][0]["name"] == name


def test_that_does_not_hang_on_what_plotly_escapes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(go.Figure, "to_json", lambda self: '{"name": "</script>"}')
    text = chart("id", "title", "summary", go.Figure()).figure
    assert "</" not in text
    assert json.loads(text) == {"name": "</script>"}


def test_the_page_s_style_takes_the_place_of_plotly_s():
    figure = go.Figure(layout={"title": "Plotly's own", "width": 900, "template": "plotly_dark"})
    drawn = chart("id", "title", "summary", figure, 200)
    layout = json.loads(drawn.figure)["layout"]
    assert (drawn.id, drawn.title, drawn.summary, drawn.height) == ("id", "title", "summary", 200)
    assert layout["autosize"] is True
    assert "width" not in layout
    assert "text" not in layout.get("title", {})
