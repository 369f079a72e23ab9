"""Rules 17 to 25, 28 to 30: from stored bytes to values with their spacing."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)

from medmm.dicom import load, load_series

DX = "1.2.840.10008.5.1.4.1.1.1.1"


def test_rule_17_row_spacing_goes_with_the_column_cosine(scanner):
    scanner.stack((0.0, 2.5), PixelSpacing=[0.5, 0.8])
    volume = load(scanner.folder)
    assert volume.array.shape == (4, 3, 2)
    assert volume.spacing_mm == (0.8, 0.5, 2.5)
    np.testing.assert_allclose(np.abs(np.diag(volume.affine)), [0.8, 0.5, 2.5, 1])
    image = load(next(scanner.folder.iterdir()))
    assert image.array.shape == (3, 4)
    assert image.spacing_mm == (0.5, 0.8)


def test_rule_17_a_2d_image_keeps_its_place(scanner):
    image = load(scanner.slice(ImagePositionPatient=[1, 2, 3]))
    np.testing.assert_allclose(image.affine @ [2, 3, 0, 1], [-(1 + 3 * 0.8), -(2 + 2 * 0.5), 3, 1])


def test_rule_18_rescale_per_slice(scanner):
    for index, z in enumerate((0.0, 2.5, 5.0)):
        scanner.slice(
            z, pixels=np.full((3, 4), 100, np.int16), RescaleSlope=index + 0.5, RescaleIntercept=-index
        )
    volume = load(scanner.folder)
    assert volume.array.dtype == np.float32
    assert [float(v) for v in volume.array[0, 0]] == [50.0, 149.0, 248.0]
    assert volume.certificate.rescale == "per slice"


def test_rule_18_exact_rescale_is_int32_and_never_wraps(scanner):
    path = scanner.slice(pixels=np.array([[0, 65535], [43, 1]], np.uint16), RescaleIntercept=-1024)
    image = load(path)
    assert image.array.dtype == np.int32
    assert image.array.tolist() == [[-1024, 64511], [-981, -1023]]


@pytest.mark.parametrize("slope", [b"0.00000", b"nan    ", b"1e308  ", b"1e400  ", b"abc    "])
def test_rule_18_unusable_slope(scanner, refused, slope):
    path = scanner.slice(RescaleSlope="1.23456")
    data = path.read_bytes()
    assert b"1.23456" in data
    path.write_bytes(data.replace(b"1.23456", slope))
    assert refused(path).reason == "invalid_rescale"


def test_rule_18_an_empty_slope_is_no_slope(scanner):
    assert load(scanner.slice(pixels=np.full((2, 2), 7, np.int16), RescaleSlope="")).array[0, 0] == 7 - 1024


def enhanced(scanner, places, **changes):
    """An enhanced CT: geometry and rescale in functional groups, none of it at the top."""
    images = np.stack([np.full((3, 4), index, np.int16) for index in range(len(places))])
    drop = dict.fromkeys(
        ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "RescaleSlope")
    )
    dataset = scanner.dataset(
        images, SOPClassUID="1.2.840.10008.5.1.4.1.1.2.1", RescaleIntercept=None, **drop
    )

    def item(**elements):
        made = Dataset()
        for keyword, value in elements.items():
            setattr(made, keyword, value)
        return made

    measures = item(PixelSpacing=[0.5, 0.8], SliceThickness=2.5)
    dataset.SharedFunctionalGroupsSequence = [
        item(
            PixelMeasuresSequence=[measures],
            PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
        )
    ]
    dataset.PerFrameFunctionalGroupsSequence = [
        item(
            PlanePositionSequence=[item(ImagePositionPatient=[0, 0, z])],
            PixelValueTransformationSequence=[item(RescaleSlope=index + 1, RescaleIntercept=10)],
            FrameContentSequence=[
                item(StackID="1", TemporalPositionIndex=changes.get("times", [1] * 99)[index])
            ],
        )
        for index, z in enumerate(places)
    ]
    return dataset


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_rule_19_enhanced_multiframe(scanner, syntax):
    dataset = enhanced(scanner, (5.0, 0.0, 2.5))
    dataset.file_meta.TransferSyntaxUID = syntax
    volume = load(scanner.save(dataset))
    assert volume.array.shape == (4, 3, 3)
    assert volume.spacing_mm == (0.8, 0.5, 2.5)
    # frame 1 lies lowest: stored 1, slope 2; then frame 2, slope 3; then frame 0
    assert [int(value) for value in volume.array[0, 0]] == [12, 16, 10]


def test_rule_19_enhanced_of_two_times_is_two_volumes(scanner, refused):
    path = scanner.save(enhanced(scanner, (0.0, 2.5, 0.0, 2.5), times=[1, 1, 2, 2]))
    assert refused(path).reason == "multiple_volumes"
    assert [result.content.array.shape for result in load_series(path)] == [(4, 3, 2)] * 2


def test_rule_19_a_cine_is_no_volume(scanner, refused):
    movie = np.zeros((4, 3, 4), np.uint8)
    drop = dict.fromkeys(("ImagePositionPatient", "ImageOrientationPatient"))
    path = scanner.slice(pixels=movie, Modality="US", SOPClassUID="1.2.840.10008.5.1.4.1.1.3.1", **drop)
    path = scanner.save(scanner.dataset(movie, Modality="US", **drop))
    assert refused(path).reason == "multiframe_not_spatial"


def test_rule_20_monochrome1_is_not_inverted(scanner):
    pixels = np.array([[0, 4095], [1, 2]], np.uint16)
    path = scanner.slice(
        pixels=pixels, Modality="DX", SOPClassUID=DX, PhotometricInterpretation="MONOCHROME1",
        BitsStored=12, HighBit=11, RescaleIntercept=0,
    )  # fmt: skip
    image = load(path)
    assert image.photometric == "MONOCHROME1"
    assert image.bits_stored == 12
    assert image.array.tolist() == pixels.tolist()


def test_rule_21_long_decimal_strings(scanner):
    dataset = scanner.dataset(PixelSpacing=None)
    with pydicom.config.disable_value_validation():
        dataset.add_new(0x00280030, "LO", ["0.48828125000000000001", "0.80000000000000000004"])
    path = scanner.save(dataset)
    path.write_bytes(path.read_bytes().replace(b"\x30\x00LO", b"\x30\x00DS"))
    image = load(path)
    assert image.spacing_mm == (0.48828125, 0.8)
    assert "decimal strings longer than 16 characters" in image.certificate.notes


@pytest.mark.parametrize("keep", [0.5, 0.9])
def test_rule_22_truncated_pixels(scanner, refused, keep):
    path = scanner.slice(pixels=np.zeros((64, 64), np.int16))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    assert refused(path).reason == "corrupt"


def test_rule_22_one_truncated_slice_refuses_the_volume(scanner, refused):
    paths = scanner.stack()
    paths[2].write_bytes(paths[2].read_bytes()[:-4])
    assert refused(scanner.folder).reason == "corrupt"


def test_rule_22_absent_pixels(scanner, refused):
    scanner.stack((0.0, 2.5))
    scanner.slice(5.0, PixelData=b"")
    assert refused(scanner.folder).reason == "no_pixel_data"


def test_rule_22_more_pixels_than_promised(scanner, refused):
    assert refused(scanner.slice(Rows=2)).reason == "corrupt"
    padded = scanner.dataset()
    padded.PixelData += b"\0" * 64
    assert load(scanner.save(padded)).array.shape == (3, 4)


def test_rule_23_padding_is_marked_before_the_rescale(scanner):
    pixels = np.array([[-2000, -1999, 0], [5, -2000, 1]], np.int16)
    path = scanner.slice(pixels=pixels, PixelPaddingValue=-2000)
    image = load(path)
    assert image.valid.tolist() == [[False, True, True], [True, False, True]]
    assert image.array[0, 0] == -3024
    assert image.certificate.minimum == -1999 - 1024


def test_rule_23_padding_range_and_orientation(scanner):
    pixels = np.arange(12, dtype=np.int16).reshape(3, 4)
    for z in (0.0, 2.5):
        scanner.slice(z, pixels=pixels, PixelPaddingValue=0, PixelPaddingRangeLimit=2)
    volume = load(scanner.folder)
    assert volume.valid.shape == volume.array.shape
    np.testing.assert_array_equal(volume.valid, volume.array > 2 - 1024)


def test_rule_24_no_spacing_stays_unknown_in_2d(scanner):
    image = load(scanner.slice(PixelSpacing=None))
    assert image.spacing_mm is None
    assert image.affine is None


def test_rule_24_a_volume_needs_spacing(scanner, refused):
    scanner.stack(PixelSpacing=None)
    assert refused(scanner.folder).reason == "missing_geometry"


@pytest.mark.parametrize("spacing", [[0, 0], [-0.5, 0.5], [1e30, 1e30]])
def test_rule_24_impossible_spacing(scanner, refused, spacing):
    assert refused(scanner.slice(PixelSpacing=spacing)).reason == "invalid_spacing"


@pytest.mark.parametrize("text", [b"nan\\nan ", b"abc\\def ", b"1_0\\1_0 ", b"0,5\\0,5 ", b"inf\\inf "])
def test_rule_24_spacing_that_is_no_number(scanner, refused, text):
    path = scanner.slice(PixelSpacing=["0.55", "0.5"])
    data = path.read_bytes()
    assert b"0.55\\0.5" in data
    path.write_bytes(data.replace(b"0.55\\0.5", text))
    assert refused(path).reason == "invalid_spacing"


def test_rule_24_detector_spacing_only_for_projections(scanner):
    assert load(scanner.slice(PixelSpacing=None, ImagerPixelSpacing=[0.2, 0.2])).spacing_mm is None
    image = load(
        scanner.slice(PixelSpacing=None, ImagerPixelSpacing=[0.2, 0.3], Modality="DX", SOPClassUID=DX)
    )
    assert image.spacing_mm == (0.2, 0.3)
    assert "spacing measured at the detector" in image.certificate.notes


@pytest.mark.parametrize(
    ("units", "deltas", "spacing"),
    [
        ([(3, 3)], [(0.02, 0.03)], (0.3, 0.2)),
        ([(3, 3), (3, 3)], [(0.02, 0.03), (0.02, 0.03)], (0.3, 0.2)),
        ([(3, 3), (3, 3)], [(0.02, 0.03), (0.02, 0.04)], None),
        ([(4, 7)], [(0.02, 0.03)], None),
    ],
)
def test_rule_24_ultrasound_is_calibrated_by_its_regions(scanner, units, deltas, spacing):
    regions = []
    for (x, y), (across, down) in zip(units, deltas, strict=True):
        region = Dataset()
        region.RegionSpatialFormat, region.PhysicalUnitsXDirection, region.PhysicalUnitsYDirection = 1, x, y
        region.PhysicalDeltaX, region.PhysicalDeltaY = across, down
        regions.append(region)
    drop = dict.fromkeys(("PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient"))
    image = load(scanner.slice(Modality="US", SequenceOfUltrasoundRegions=regions, **drop))
    assert image.spacing_mm == (None if spacing is None else pytest.approx(spacing))
    assert ("spacing measured in the ultrasound region" in image.certificate.notes) == (spacing is not None)


def test_rule_25_rgb_interleaved_and_planar(scanner):
    pixels = np.arange(2 * 4 * 3, dtype=np.uint8).reshape(2, 4, 3)
    drop = {"RescaleSlope": None, "RescaleIntercept": None}
    image = load(scanner.slice(pixels=pixels, **drop))
    assert image.photometric == "RGB"
    np.testing.assert_array_equal(image.array, pixels)
    planar = scanner.dataset(
        pixels, PlanarConfiguration=1, PixelData=pixels.transpose(2, 0, 1).tobytes(), **drop
    )
    np.testing.assert_array_equal(load(scanner.save(planar)).array, pixels)


def test_rule_25_ybr_becomes_rgb(scanner):
    gray = np.full((2, 4, 3), 128, np.uint8)
    gray[..., 0] = np.arange(8).reshape(2, 4) * 30
    image = load(scanner.slice(pixels=gray, PhotometricInterpretation="YBR_FULL"))
    np.testing.assert_array_equal(image.array, np.repeat(gray[..., :1], 3, axis=-1))
    halved = np.stack([gray[:, 0::2, 0], gray[:, 1::2, 0], gray[:, 0::2, 1], gray[:, 0::2, 2]], axis=-1)
    image = load(
        scanner.save(
            scanner.dataset(gray, PhotometricInterpretation="YBR_FULL_422", PixelData=halved.tobytes())
        )
    )
    np.testing.assert_array_equal(image.array, np.repeat(gray[..., :1], 3, axis=-1))


def test_rule_25_palette_becomes_rgb(scanner):
    tables = {}
    for index, colour in enumerate(("Red", "Green", "Blue")):
        tables[f"{colour}PaletteColorLookupTableDescriptor"] = [4, 0, 16]
        values = np.array([0, 1, 2, 3], np.uint16) * (index + 1) << 8
        tables[f"{colour}PaletteColorLookupTableData"] = values.tobytes()
    pixels = np.array([[0, 1], [2, 3]], np.uint8)
    image = load(scanner.slice(pixels=pixels, PhotometricInterpretation="PALETTE COLOR", **tables))
    assert image.array.dtype == np.uint8
    assert image.array[1].tolist() == [[2, 4, 6], [3, 6, 9]]


@pytest.mark.parametrize("name", ["HSV", "CMYK", "NONSENSE", "YBR_RCT"])
def test_rule_25_other_colours_are_refused(scanner, refused, name):
    pixels = np.zeros((2, 4, 3), np.uint8)
    assert (
        refused(scanner.slice(pixels=pixels, PhotometricInterpretation=name)).reason
        == "unsupported_photometric"
    )


def test_rule_25_photometric_absent(scanner, refused):
    assert refused(scanner.slice(PhotometricInterpretation=None)).reason == "missing_tags"


def test_rule_28_unknown_transfer_syntax_is_named(scanner, refused):
    refusal = refused(scanner.slice(syntax=MPEG2MPML, PixelData=encapsulate([b"\0\0\1\xb3"])))
    assert refusal.reason == "unsupported_transfer_syntax"
    assert str(MPEG2MPML) in refusal.detail


NATIVE = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]


@pytest.mark.parametrize("syntax", [*NATIVE, RLELossless, JPEG2000Lossless, JPEGLSLossless])
@pytest.mark.parametrize(("dtype", "stored"), [(np.uint16, 12), (np.int16, 16), (np.uint8, 8)])
def test_every_transfer_syntax_gives_the_same_values(scanner, syntax, dtype, stored):
    signed = dtype == np.int16
    low, high = (-(2 ** (stored - 1)), 2 ** (stored - 1)) if signed else (0, 2**stored)
    pixels = np.linspace(low, high - 1, 65 * 63).astype(dtype).reshape(65, 63)
    pixels[::7] = np.array(high - 1).astype(dtype)
    dataset = scanner.dataset(pixels, BitsStored=stored, HighBit=stored - 1, RescaleIntercept=0)
    if syntax == ExplicitVRBigEndian:
        dataset.PixelData = pixels.astype(pixels.dtype.newbyteorder(">")).tobytes() + b"\0" * (
            pixels.nbytes % 2
        )
        dataset["PixelData"].VR = "OB" if dtype == np.uint8 else "OW"
    dataset.file_meta.TransferSyntaxUID = syntax if syntax in NATIVE else ExplicitVRLittleEndian
    if syntax not in NATIVE:
        plugin = {RLELossless: "pydicom", JPEG2000Lossless: "pylibjpeg", JPEGLSLossless: "pyjpegls"}[syntax]
        dataset.compress(syntax, generate_instance_uid=False, encoding_plugin=plugin)
    image = load(scanner.save(dataset))
    np.testing.assert_array_equal(image.array, pixels.astype(np.int32))
    assert image.certificate.transfer_syntax == (str(syntax),)


def test_big_endian_words_of_bytes(scanner):
    pixels = np.arange(15, dtype=np.uint8).reshape(3, 5)
    words = np.frombuffer(pixels.tobytes() + b"\0", "<u2").astype(">u2").tobytes()
    dataset = scanner.dataset(pixels, syntax=ExplicitVRBigEndian, RescaleIntercept=0, PixelData=words)
    dataset["PixelData"].VR = "OW"
    np.testing.assert_array_equal(load(scanner.save(dataset)).array, pixels)


def test_unused_high_bits_are_removed(scanner):
    pixels = np.array([[0xF001, 0x0FFF]], np.uint16)
    image = load(scanner.slice(pixels=pixels, BitsStored=12, HighBit=11, RescaleIntercept=0))
    assert image.array.tolist() == [[1, 4095]]
    signed = scanner.slice(
        pixels=np.array([[0x0FFF, 0x0001]], np.uint16),
        BitsStored=12,
        HighBit=11,
        PixelRepresentation=1,
        RescaleIntercept=0,
    )
    assert load(signed).array.tolist() == [[-1, 1]]


def test_bit_packed_frames(scanner):
    pixels = np.array([[1, 0, 1], [0, 1, 1]], np.uint8)
    dataset = scanner.dataset(pixels, BitsAllocated=1, BitsStored=1, HighBit=0, RescaleIntercept=0)
    dataset.PixelData = np.packbits(pixels.ravel(), bitorder="little").tobytes() + b"\0"
    np.testing.assert_array_equal(load(scanner.save(dataset)).array, pixels)


def test_modality_lut_is_applied(scanner):
    table = Dataset()
    table.LUTDescriptor = [3, 10, 16]
    table["LUTDescriptor"].VR = "US"
    table.add_new(0x00283006, "OW", np.array([100, 200, 65535], "<u2").tobytes())
    pixels = np.array([[9, 10, 11, 12, 13]], np.uint16)
    drop = {"RescaleSlope": None, "RescaleIntercept": None}
    image = load(scanner.slice(pixels=pixels, ModalityLUTSequence=[table], **drop))
    assert image.array.tolist() == [[100, 100, 200, 65535, 65535]]
    assert image.certificate.rescale == "lookup table"


def test_rule_29_window_is_never_applied(scanner):
    plain, shown = scanner.slice(), scanner.slice(WindowCenter=40, WindowWidth=2)
    np.testing.assert_array_equal(load(plain).array, load(shown).array)


def test_rule_18_slices_of_two_syntaxes_make_one_volume(scanner):
    pixels = np.arange(12, dtype=np.int16).reshape(3, 4)
    scanner.slice(0.0, pixels=pixels)
    dataset = scanner.dataset(pixels, ImagePositionPatient=[-10, -20, 2.5])
    dataset.compress(RLELossless, generate_instance_uid=False, encoding_plugin="pydicom")
    scanner.save(dataset)
    volume = load(scanner.folder)
    np.testing.assert_array_equal(volume.array[..., 0], volume.array[..., 1])
    assert len(volume.certificate.transfer_syntax) == 2


def test_series_uid_is_a_pseudonym_in_the_certificate(scanner):
    certificate = load(scanner.slice()).certificate
    row = certificate.row(b"key")
    assert scanner.series not in str(row)
    assert scanner.series not in str(certificate)
    assert row["series"] != certificate.row(b"other")["series"]
    assert len(row["series"]) == 16
    assert generate_uid() not in row.values()
