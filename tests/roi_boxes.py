"""Boxes and films that regions are cut from."""

from hypothesis import strategies as st

from data.inputs import Roi

FILM = (300, 200)


@st.composite
def boxes(draw: st.DrawFn) -> tuple[int, int, int, int]:
    x0, y0 = draw(st.integers(0, FILM[1] - 3)), draw(st.integers(0, FILM[0] - 3))
    return x0, y0, draw(st.integers(x0 + 2, FILM[1])), draw(st.integers(y0 + 2, FILM[0]))


rules = st.builds(
    Roi,
    strategy=st.sampled_from(["max224", "bbox", "double_square", "double_bbox", "box_scale"]),
    min_side=st.integers(8, 260),
    scale=st.floats(1, 3),
)
