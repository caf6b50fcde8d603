"""Reading order of words with boxes, for rows that show a whole page."""

from collections.abc import Sequence

Box = tuple[float, float, float, float]  # left, top, right, bottom
# A box so many times as high as its neighbours, such as an upright sign, is no part of a line.
TALLEST = 3


def reading_order(words: Sequence[tuple[Box, str]]) -> str:
    """Join words from top to bottom and left to right, one line of text per line of words.

    A word belongs to the line with whose nearest word it shares at least half of the smaller
    height, so that a slanted line is not divided.
    """
    lines: list[list[tuple[Box, str]]] = []
    for word in sorted(words, key=lambda word: (word[0][1], word[0][0])):
        best = max(lines, key=lambda line: shared_height(line, word[0]), default=None)
        if best is not None and shared_height(best, word[0]) >= 0.5:
            best.append(word)
        else:
            lines.append([word])
    lines.sort(key=lambda line: sum(box[1] + box[3] for box, _ in line) / len(line))
    ordered = [sorted(line, key=lambda word: (word[0][0], word[0][1])) for line in lines]
    return "\n".join(" ".join(text for _, text in line) for line in ordered)


def shared_height(line: list[tuple[Box, str]], box: Box) -> float:
    """The height that a box and its nearest in a line share, as a fraction of the smaller one."""
    centre = box[0] + box[2]
    near = min((word[0] for word in line), key=lambda other: abs(other[0] + other[2] - centre))
    height, own = near[3] - near[1], box[3] - box[1]
    if min(height, own) <= 0 or max(height, own) > TALLEST * min(height, own):
        return 0.0
    return (min(near[3], box[3]) - max(near[1], box[1])) / min(height, own)
