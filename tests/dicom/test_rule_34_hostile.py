"""Rule 34: a hostile file is refused before anything is allocated for it, and its text goes nowhere."""

from __future__ import annotations

import contextlib
import resource
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, JPEGBaseline8Bit, RLELossless

from medmm.dicom import load, scan
from medmm.errors import DicomRefusal


@pytest.fixture(autouse=True)
def bounded():
    """No test here may need more than 1.5 GB above what the process has now."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 1_500_000_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize(
    "change",
    [
        {"Rows": 65535, "Columns": 65535},
        {"NumberOfFrames": 10**9},
        {"NumberOfFrames": -1},
        {"Rows": 0},
        {"BitsStored": 0},
        {"BitsStored": 99},
        {"BitsAllocated": 64},
        {"SamplesPerPixel": 3},
    ],
)
def test_rule_34_impossible_sizes(scanner, refused, change):
    assert refused(scanner.slice(**change)).reason == "corrupt"


@pytest.mark.parametrize("size", [(65535, 65535), (30000, 30000)])
def test_rule_34_a_compressed_frame_that_claims_to_be_huge(scanner, refused, size):
    stream = (
        b"\xff\x4f\xff\x51" + struct.pack(">HH8IH", 41, 0, *size, 0, 0, *size, 0, 0, 1) + b"\7\1\1\xff\xd9"
    )
    small = scanner.slice(syntax=JPEG2000Lossless, PixelData=encapsulate([stream]))
    assert refused(small).reason == "corrupt"
    huge = scanner.slice(
        syntax=JPEG2000Lossless, PixelData=encapsulate([stream]), Rows=size[1], Columns=size[0]
    )
    assert refused(huge).reason in ("resource_limit", "corrupt")


def test_rule_34_a_run_length_bomb(scanner, refused):
    bomb = struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\0" * 8
    path = scanner.slice(
        pixels=np.zeros((3, 4), np.uint8),
        syntax=RLELossless,
        PixelData=encapsulate([bomb]),
        Rows=8000,
        Columns=8000,
    )
    assert refused(path).reason == "corrupt"


def test_rule_34_a_deflate_bomb(scanner, refused):
    dataset = scanner.dataset(syntax=DeflatedExplicitVRLittleEndian)
    path = scanner.save(dataset)
    data = path.read_bytes()
    start = 132 + 12 + struct.unpack_from("<I", data, 140)[0]
    pack = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    body = b"\x09\0\x10\0UN\0\0" + struct.pack("<I", 1 << 30)
    packed = pack.compress(body) + b"".join(pack.compress(bytes(1 << 20)) for _ in range(600)) + pack.flush()
    path.write_bytes(data[:start] + packed)
    assert refused(path).reason == "resource_limit"


def nested(depth: int) -> bytes:
    return (b"\x09\0\x02\x10SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\0\xe0\xff\xff\xff\xff") * depth


def test_rule_34_deep_sequences(scanner):
    path = scanner.slice()
    data = path.read_bytes()
    at = data.index(b"\x10\0\x20\0LO")
    closed = (b"\xfe\xff\x0d\xe0\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0") * 5000
    path.write_bytes(data[:at] + nested(5000) + closed + data[at:])
    assert load(path).array.shape == (3, 4)


def test_rule_34_a_sequence_that_never_ends(scanner, refused):
    path = scanner.slice()
    data = path.read_bytes()
    at = data.index(b"\x10\0\x20\0LO")
    path.write_bytes(data[:at] + nested(3) + data[at:])
    assert refused(path).reason == "corrupt"


def test_rule_34_an_element_longer_than_the_file(scanner, refused):
    path = scanner.slice()
    data = path.read_bytes()
    at = data.index(b"\x10\0\x20\0LO")
    path.write_bytes(data[:at] + b"\x09\0\x02\x10UN\0\0" + struct.pack("<I", 0xFFFFFFF0) + data[at:])
    assert refused(path).reason == "corrupt"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not_dicom"),
        (b"<html>" * 50, "not_dicom"),
        (b"\x89PNG\r\n\x1a\n" + bytes(200), "not_dicom"),
        (b"\x1f\x8b" + bytes(200), "not_dicom"),
        (bytes(128) + b"DICM", "corrupt"),
        (bytes(128) + b"DICM" + bytes(range(256)) * 4, "corrupt"),
    ],
)
def test_rule_34_no_dicom(tmp_path, refused, content, reason):
    path = tmp_path / "file.dcm"
    path.write_bytes(content)
    assert refused(path).reason == reason


CANARY = "<script>canary()</script>"


def test_rule_34_text_stays_text(scanner, tmp_path):
    names = ["../../../etc/passwd", "a\\b", "=1+1", CANARY, "P\0\0", "x" * 60]
    for index, name in enumerate(names):
        dataset = scanner.dataset(SeriesDescription=CANARY, SeriesInstanceUID=f"1.2.{index}")
        dataset.add_new(0x00100010, "PN", CANARY)
        dataset["PatientID"]._value = name
        volume = load(scanner.save(dataset))
        assert volume.array.shape == (3, 4)
        assert CANARY not in str(volume.certificate.row(b"k"))
    index = scan(scanner.folder)
    assert {entry.patient_id for entry in index.series} == {name.rstrip("\0") for name in names}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dicom"]


def test_rule_34_refusals_quote_nothing_of_the_patient(scanner, refused):
    path = scanner.slice(PatientID="CANARY-7", PatientName="CANARY^EIGHT", BitsStored=99)
    refusal = refused(path)
    assert "CANARY" not in str(refusal)
    assert refusal.__cause__ is None


@pytest.mark.parametrize("kind", ["cut", "size", "marker"])
def test_rule_34_a_damaged_jpeg_is_not_a_grey_picture(scanner, refused, kind):
    from io import BytesIO

    from PIL import Image

    buffer = BytesIO()
    Image.fromarray(np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)).save(buffer, "jpeg")
    stream = buffer.getvalue()
    drop = {"RescaleSlope": None, "RescaleIntercept": None}
    pixels = np.zeros((64, 64), np.uint8)
    whole = scanner.slice(pixels=pixels, syntax=JPEGBaseline8Bit, PixelData=encapsulate([stream]), **drop)
    assert abs(int(load(whole).array[40, 40]) - 80) < 4
    damaged = {
        "cut": stream[: len(stream) // 2],
        "size": stream.replace(b"\x00\x40\x00\x40", b"\x10\x40\x10\x40"),
        "marker": stream[2:],
    }[kind]
    path = scanner.slice(pixels=pixels, syntax=JPEGBaseline8Bit, PixelData=encapsulate([damaged]), **drop)
    assert refused(path).reason == "corrupt"


PLACE = st.floats(0, 1, exclude_max=True)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damage=st.lists(st.tuples(PLACE, st.integers(0, 255)), max_size=6), cut=st.none() | PLACE)
def test_rule_34_any_damage_is_a_typed_refusal_or_an_image(scanner, damage, cut):
    path = scanner.save(scanner.dataset(RescaleIntercept=0), "damaged.dcm")
    content = bytearray(path.read_bytes())
    for place, byte in damage:
        content[int(place * len(content))] = byte
    path.write_bytes(content if cut is None else content[: int(cut * len(content))])
    with contextlib.suppress(DicomRefusal):
        assert np.isfinite(load(path).array).all()
