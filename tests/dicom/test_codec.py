"""Codecs run beside the process that asks: what kills them kills nothing else."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pydicom.pixels import get_encoder
from pydicom.uid import JPEG2000Lossless, RLELossless

from medmm.dicom import codec, load
from medmm.dicom.header import Layout
from medmm.dicom.rle import decode_short


@pytest.fixture
def compressed(scanner):
    """A JPEG 2000 file and its values."""
    pixels = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)
    dataset = scanner.dataset(pixels, RescaleIntercept=0)
    dataset.compress(JPEG2000Lossless, encoding_plugin="pylibjpeg")
    return scanner.save(dataset), pixels


@pytest.fixture(autouse=True)
def fresh():
    codec.close()
    yield
    codec.close()


def test_frames_share_one_process(compressed):
    path, pixels = compressed
    np.testing.assert_array_equal(load(path).array, pixels)
    first = codec._workers[0].process.pid
    np.testing.assert_array_equal(load(path).array, pixels)
    assert codec._workers[0].process.pid == first != os.getpid()


def test_a_dead_codec_is_a_refusal_and_the_next_frame_is_decoded(compressed, refused):
    path, pixels = compressed
    load(path)
    os.kill(codec._workers[0].process.pid, signal.SIGSEGV)
    codec._workers[0].process.wait()
    refusal = refused(path)
    assert refusal.reason == "corrupt"
    assert "broke down" in refusal.detail
    np.testing.assert_array_equal(load(path).array, pixels)


def test_a_codec_that_hangs_is_ended(compressed, refused, monkeypatch):
    path, pixels = compressed
    load(path)
    process = codec._workers[0].process
    os.kill(process.pid, signal.SIGSTOP)
    monkeypatch.setattr(codec, "FRAME_SECONDS", 0.05)
    assert refused(path).reason == "resource_limit"
    assert process.poll() is not None
    monkeypatch.undo()
    np.testing.assert_array_equal(load(path).array, pixels)


def test_a_codec_that_is_not_installed_is_named(compressed, refused, monkeypatch):
    monkeypatch.setitem(codec.DECODERS, str(JPEG2000Lossless), ("nothing", "the-package"))
    refusal = refused(compressed[0])
    assert refusal.reason == "unsupported_transfer_syntax"
    assert "install the-package" in refusal.detail


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_process_gets_a_codec_of_its_own(compressed):
    path, pixels = compressed
    load(path)
    process = os.fork()
    if process == 0:
        same = np.array_equal(load(path).array, pixels)
        codec.close()
        os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0
    np.testing.assert_array_equal(load(path).array, pixels)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([np.uint8, np.int16, np.uint16]).flatmap(
        lambda dtype: arrays.arrays(dtype, st.tuples(st.integers(1, 9), st.integers(1, 9)))
    )
)
def test_short_run_length_frames_are_decoded_as_they_were_encoded(pixels):
    bits = pixels.dtype.itemsize * 8
    layout = Layout(*pixels.shape, 1, 1, "MONOCHROME2", bits, bits, 0, pixels.dtype.kind == "i", False)
    stream = get_encoder(RLELossless).encode(
        pixels,
        encoding_plugin="pydicom",
        rows=layout.rows,
        columns=layout.columns,
        number_of_frames=1,
        samples_per_pixel=1,
        photometric_interpretation="MONOCHROME2",
        bits_allocated=bits,
        bits_stored=bits,
        pixel_representation=int(layout.signed),
    )
    np.testing.assert_array_equal(decode_short(stream, layout), pixels)
