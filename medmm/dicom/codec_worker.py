"""The process in which codecs run: frames in on standard input, decoded values out on standard output.

Codecs are written in C and Rust and meet hostile streams here: a crash, a panic or an allocation above the
limit ends this process, not the one that asked. Run by path, it imports nothing of medmm.

A message is two lengths (little-endian, 32-bit), that many bytes of JSON, and that many of payload.
"""

from __future__ import annotations

import json
import resource
import signal
import struct
import sys
import warnings
from typing import Any, BinaryIO

import numpy as np

JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"


def main() -> None:
    """Serve requests until standard input ends."""
    limit, seconds, (_, most) = int(sys.argv[1]), float(sys.argv[2]), resource.getrlimit(resource.RLIMIT_AS)
    limit = limit if most == resource.RLIM_INFINITY else min(limit, most)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    while (message := receive(source)) is not None:
        request, stream = message
        signal.setitimer(signal.ITIMER_REAL, seconds)  # nothing handles the alarm: it ends the process
        try:
            values = np.ascontiguousarray(decode(request, stream))
            reply, payload = {"dtype": values.dtype.str, "shape": values.shape}, values.tobytes()
        except ImportError:
            reply, payload = {"error": "ImportError"}, b""
        except BaseException as error:  # a codec in Rust panics beside Exception
            reply, payload = {"error": type(error).__name__}, b""
        signal.setitimer(signal.ITIMER_REAL, 0)
        send(sink, reply, payload)


def receive(source: BinaryIO) -> tuple[dict[str, Any], bytes] | None:
    """Return one message, None where the stream ends."""
    head = source.read(8)
    if len(head) < 8:
        return None
    lengths = struct.unpack("<II", head)
    return json.loads(source.read(lengths[0])), source.read(lengths[1])


def send(sink: BinaryIO, fields: dict[str, Any], payload: bytes) -> None:
    """Write one message."""
    text = json.dumps(fields).encode()
    sink.write(struct.pack("<II", len(text), len(payload)) + text)
    sink.write(payload)
    sink.flush()


def decode(request: dict[str, Any], stream: bytes) -> np.ndarray[Any, Any]:
    """Decode one frame as the request describes it: plugin, syntax and pydicom's options."""
    syntax, options = request["syntax"], request["options"]
    if syntax == JPEG_EXTENDED and options["bits_stored"] > 8:
        return _by_gdcm(stream, options)
    from pydicom.encaps import encapsulate
    from pydicom.pixels import get_decoder

    decoder = get_decoder(syntax)
    if request["plugin"] not in decoder.available_plugins:
        raise ImportError(request["plugin"])
    frame = encapsulate([stream], has_bot=False)
    values, _ = decoder.as_array(frame, decoding_plugin=request["plugin"], **options)
    return np.asarray(values)


def _by_gdcm(stream: bytes, options: dict[str, Any]) -> np.ndarray[Any, Any]:
    """Decode a 12-bit JPEG Extended frame, which pydicom does not hand to GDCM."""
    import gdcm

    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(stream)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((options["columns"], options["rows"], 1))
    image.SetDataElement(element)
    kind = gdcm.PhotometricInterpretation.GetPIType(options["photometric_interpretation"])
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(kind))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(JPEG_EXTENDED)))
    samples, allocated, stored = (
        options[name] for name in ("samples_per_pixel", "bits_allocated", "bits_stored")
    )
    signed = options["pixel_representation"]
    image.SetPixelFormat(gdcm.PixelFormat(samples, allocated, stored, stored - 1, signed))
    values = image.GetBuffer().encode("utf-8", "surrogateescape")
    shape = (options["rows"], options["columns"], *((samples,) if samples > 1 else ()))
    return np.frombuffer(values, f"<{'i' if signed else 'u'}{allocated // 8}").reshape(shape)


if __name__ == "__main__":
    main()
