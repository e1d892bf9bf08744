"""The questions that methods are compared on: each with its unit, classes and primary metric (docs/tracks.md)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Track:
    """One question. `column` is the integer label's column in a table of samples; -1 there means unknown."""

    name: str
    unit: str  # "finding": one region of interest; "image": one whole image
    classes: tuple[str, ...]
    column: str
    primary: str  # name in the registry of bench.metrics

    @property
    def searched(self) -> int | None:
        """Position of the class whose lesions are to be found in a whole image; None where a region is given."""
        return len(self.classes) - 1 if self.unit == "image" else None


TRACKS: dict[str, Track] = {
    track.name: track
    for track in (
        Track("margin", "finding", ("circumscribed", "indistinct", "spiculated"), "margin", "auroc_mean"),
        Track("malignancy", "finding", ("benign", "malignant"), "malignant", "auroc_mean"),
        Track("detection", "image", ("normal", "mass"), "has_mass", "tpr_at_fppi_1"),
    )
}
MARGINS = TRACKS["margin"].classes
