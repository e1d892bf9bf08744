"""Damage as it happens to files: tables that were edited, cut short or saved by another program; DICOM headers that lie."""

import io
import re
import struct
from collections.abc import Callable
from pathlib import Path

import pydicom
from hypothesis import strategies as st

TOKENS = (
    b"\0", b'"', b",", b";", b" ", b"\n", b"\r\n", b"../", b"/etc/passwd", b"\\", b"nan", b"inf", b"-1", b"1e400", b"99999999999",
    b"\xe9", b"\xff\xfe", b"=1+1", b"[", b"'Mass'", b"BENIGN", b"Malign", b"CIRC", b"N/A", b"<", b"&x;", b"A" * 50_000,
)  # fmt: skip
TAGS = (
    "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel", "NumberOfFrames",
    "PhotometricInterpretation", "RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth", "VOILUTFunction",
    "SeriesInstanceUID", "SOPInstanceUID", "PixelData", "PlanarConfiguration", "PixelSpacing", "ImagerPixelSpacing",
)  # fmt: skip
VALUES = (
    None,
    "",
    0,
    1,
    7,
    12,
    16,
    64,
    65535,
    -1,
    "MONOCHROME1",
    "RGB",
    "SIGMOID",
    "1e400",
    "nan",
    "-5",
    [1, 2],
    "x" * 70,
)
SYNTAXES = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.70",
            "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.201", "1.2.3", "")  # fmt: skip

Mutation = Callable[[bytes], bytes]


@st.composite
def table_mutations(draw: st.DrawFn) -> Mutation:
    """One change of a text table: bytes put in, taken out or flipped, a row doubled, moved or lost, the end cut off."""
    kind = draw(
        st.sampled_from(["insert", "delete", "flip", "cut", "row twice", "row gone", "rows swapped", "case", "blank"])
    )
    at, length = draw(st.floats(0, 1, exclude_max=True)), draw(st.integers(1, 12))
    token, mask = draw(st.sampled_from(TOKENS)), draw(st.integers(1, 255))

    def change(text: bytes) -> bytes:
        place = int(at * len(text))
        if kind == "insert":
            return text[:place] + token + text[place:]
        if kind == "delete":
            return text[:place] + text[place + length :]
        if kind == "flip":
            return text[:place] + bytes([text[place] ^ mask]) + text[place + 1 :]
        if kind == "cut":
            return text[:place]
        if kind == "case":
            return text[:place] + text[place : place + length].swapcase() + text[place + length :]
        if kind == "blank":
            return text[:place] + b" " * length + text[place + length :]
        lines = text.splitlines(keepends=True)
        row = min(int(at * len(lines)), len(lines) - 1)
        if kind == "row twice":
            lines.insert(row, lines[row])
        elif kind == "row gone":
            del lines[row]
        else:
            other = (row + length) % len(lines)
            lines[row], lines[other] = lines[other], lines[row]
        return b"".join(lines)

    return change


@st.composite
def dicom_mutations(draw: st.DrawFn) -> Mutation:
    """One change of a DICOM file: bytes of its header flipped, put in or lost, its end cut off, or an element that lies."""
    kind = draw(st.sampled_from(["flip", "insert", "delete", "cut", "element", "element", "syntax"]))
    at, length, mask = draw(st.floats(0, 1, exclude_max=True)), draw(st.integers(1, 40)), draw(st.integers(1, 255))
    tag, value, syntax = draw(st.sampled_from(TAGS)), draw(st.sampled_from(VALUES)), draw(st.sampled_from(SYNTAXES))

    def change(content: bytes) -> bytes:
        header = min(len(content), 1200)  # of these small files; beyond it lie pixels
        place = int(at * header)
        if kind == "flip":
            return content[:place] + bytes([content[place] ^ mask]) + content[place + 1 :]
        if kind == "insert":
            return content[:place] + bytes([mask]) * length + content[place:]
        if kind == "delete":
            return content[:place] + content[place + length :]
        if kind == "cut":
            return content[: int(at * len(content))]
        file = pydicom.dcmread(io.BytesIO(content))
        try:
            if kind == "syntax":
                file.file_meta.TransferSyntaxUID = syntax
            elif value is None:
                file.pop(tag, None)
            else:
                setattr(file, tag, value)
            out = io.BytesIO()
            file.save_as(out, implicit_vr=False, little_endian=True)
        except (
            ValueError,
            TypeError,
            AttributeError,
            OverflowError,
            KeyError,
            NotImplementedError,
            OSError,
            struct.error,
        ):
            return content[:place]  # pydicom does not write such a value: cut the file instead
        return out.getvalue()

    return change


# what is a label in one form or another
LABELS = re.compile(
    rb"(?<=mdb\d{3} [FGD] )(CIRC|MISC|SPIC|NORM)|(?<=(?:CIRC|MISC|SPIC) )[BM]"
    rb"|(?<=')(Mass|No Finding)(?=')|BI-RADS|DENSITY"
    rb"|(?<=[,;])(MALIGNANT|BENIGN|BENIGN_WITHOUT_CALLBACK|CIRCUMSCRIBED|ILL_DEFINED|SPICULATED)(?=,)"
    rb"|(?<=[,;])(malignant|benign|LEFT|RIGHT|CC|MLO|L|R)(?=[,;])|(?<=, )(Malign|Benign)|(?<=,)(training|train|test)(?=[,\r\n])"
)


@st.composite
def unknown_labels(draw: st.DrawFn) -> Mutation:
    """A label that was there becomes a word that no form knows; the text as it was where it holds none."""
    at = draw(st.floats(0, 1, exclude_max=True))

    def change(text: bytes) -> bytes:
        found = list(LABELS.finditer(text))
        if not found:
            return text
        label = found[int(at * len(found))]
        return text[: label.start()] + b"Zq" + text[label.end() :]

    return change


@st.composite
def image_mutations(draw: st.DrawFn) -> Mutation:
    """One change of a PNG, TIFF or PGM file: bytes flipped, put in or lost, most often in its head, or its end cut off."""
    kind = draw(st.sampled_from(["flip", "insert", "delete", "cut"]))
    at, length, mask = draw(st.floats(0, 1, exclude_max=True)), draw(st.integers(1, 40)), draw(st.integers(1, 255))
    in_head = draw(st.booleans())

    def change(content: bytes) -> bytes:
        place = int(at * min(len(content), 200 if in_head else len(content)))
        if kind == "flip":
            return content[:place] + bytes([content[place] ^ mask]) + content[place + 1 :]
        if kind == "insert":
            return content[:place] + bytes([mask]) * length + content[place:]
        return content[:place] + (content[place + length :] if kind == "delete" else b"")

    return change


def files(root: Path, *suffixes: str) -> list[Path]:
    """Files of these endings below a root, in a fixed order; not what the phantom says of itself."""
    found = [p for p in sorted(root.rglob("*")) if p.is_file() and p.suffix.lower() in suffixes]
    return [path for path in found if path.name != "phantom.json"]
