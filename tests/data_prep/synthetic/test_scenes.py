import numpy as np
import pytest

from data_prep.synthetic import scenes
from data_prep.synthetic.fonts import KINDS
from data_prep.synthetic.line_drawing import Line, draw
from tests.helpers.drawn_lines import SERIF, opened


@pytest.mark.parametrize("face", KINDS)
def test_scene_text_is_not_clipped(face, monkeypatch):
    # With a clean lens and a white ground, ink at the border would be a letter that is cut.
    monkeypatch.setattr(scenes, "photographed", lambda image, *rest: image)
    monkeypatch.setattr(scenes, "pen_colour", lambda look: (0.0, 0.0, 0.0))
    monkeypatch.setattr(scenes, "sign_colours", lambda look: ((255.0,) * 3, (0.0,) * 3))
    plain = lambda shape, *rest: np.full((*shape, 3), 255, dtype=np.float32)  # noqa: E731
    monkeypatch.setattr(scenes, "paper", plain)
    monkeypatch.setattr(scenes, "board", plain)
    for seed in range(40):
        line = Line("jÅgfy (Quick)", "en", face, SERIF, f"p{seed}", f"s{seed}")
        pixels = opened(draw(line))
        border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
        assert border.min() > 90, seed
