from ocrkit.display.tables import Table, columns_of_text, heading_table


def test_a_table_is_html_and_columns_of_text():
    table = Table([{"a": 1, "b": "<x>"}, {"a": 0.123456, "b": ""}], "a note")
    assert repr(table).splitlines() == ["a       b", "1       <x>", "0.1235", "a note"]
    assert "<td>&lt;x&gt;</td>" in table.html and "<p>a note</p>" in table.html
    assert repr(Table([])) == "nothing to show"


def test_a_line_breaks_beside_an_interval_and_not_within():
    table = Table([{"a": "+24.0 points [+16.0, +33.0], p < 0.001", "b": "46.0 % [37.0, 54.0]"}])
    assert "+24.0 points [+16.0,\u00a0+33.0], p\u00a0&lt;\u00a00.001<" in table.html
    assert "46.0\u00a0% [37.0,\u00a054.0]<" in table.html and "\u00a0" not in repr(table)


def test_control_characters_in_columns_of_text_are_escapes():
    assert columns_of_text([["a\nb", "\x1b[2J"], ["\u202ec", ""]]).splitlines() == [
        "a b      \\x1b[2J",
        "\\u202ec",
    ]


def test_the_first_line_of_a_heading_table_is_its_heading():
    table = heading_table([["", "base"], ["CER", "1.0 %"]], "metric")
    assert table.rows == [{"metric": "CER", "base": "1.0 %"}]


def test_a_wide_table_scrolls_with_every_cell_on_one_line():
    html = str(Table([{"card": "a100-40", "fits": "does not fit"}], wide=True).html)
    assert "<div class='wide'><table>" in html and "</table></div>" in html
    assert ".wide :is(th, td) { white-space: nowrap; }" in html
    assert "<div class='wide'>" not in str(Table([{"card": "a100-40"}]).html)


def test_only_a_cell_with_a_long_word_is_broken_anywhere():
    html = str(
        Table(
            [
                {
                    "a": '{"company":"SHOP NORTH","date":"02-04-2016","amount":"54.66"}',
                    "b": "54.66 % [1, 2]",
                }
            ]
        ).html
    )
    assert html.count("<td class='read'>") == 1 and html.count("<td>") == 1
