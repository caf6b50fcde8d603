from data_prep.sources._reading_order import reading_order


def test_words_of_a_slanted_page_come_in_order():
    words = []
    for row, line in enumerate(["하나 둘 셋 넷", "five six seven", "১ ২"]):
        for column, text in enumerate(line.split()):
            # Every line falls by 8 pixels a word, a third of its height.
            left, top = 100 * column, 60 * row + 8 * column
            words.append(((left, top, left + 80, top + 24), text))
    expected = "하나 둘 셋 넷\nfive six seven\n১ ২"
    assert reading_order(words) == reading_order(words[::-1]) == expected


def test_reading_order_keeps_small_marks_in_line_and_upright_signs_apart():
    line = [((0, 0, 40, 20), "a"), ((50, 2, 90, 22), "c"), ((42, 12, 46, 20), ",")]
    below = [((0, 30, 40, 50), "d")]
    upright = [((200, 0, 220, 90), "sign")]
    assert reading_order(line + below + upright) == "a , c\nd\nsign"


def test_reading_order_of_no_boxes_and_of_boxes_without_height():
    assert reading_order([]) == ""
    assert reading_order([((5, 5, 5, 5), "b"), ((0, 5, 0, 5), "a")]) == "a\nb"
