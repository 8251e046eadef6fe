"""Event files for TensorBoard, as bytes to append.

`tensorboardX` has the messages and the checksum. Its `SummaryWriter` is not used: it writes from a
thread, keeps a file open for each stage, and never returns when the disk is full.

Source: the format of TFRecord, https://www.tensorflow.org/tutorials/load_data/tfrecord
"""

from __future__ import annotations

import struct
import time
from collections.abc import Mapping

from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c


def opening() -> bytes:
    """The first record of an event file."""
    return _record(Event(wall_time=time.time(), file_version="brain.Event:2"))


def scalars(values: Mapping[str, float], step: int) -> bytes:
    """A record with one point of each curve.

    Args:
        values: the value of each, by name.
        step: where on the x-axis.
    """
    points = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
    return _record(Event(wall_time=time.time(), step=step, summary=Summary(value=points)))


def _record(event: Event) -> bytes:
    # Length, checksum of the length, data, checksum of the data.
    data = event.SerializeToString()
    length = struct.pack("<Q", len(data))
    checksums = [struct.pack("<I", masked_crc32c(part)) for part in (length, data)]
    return length + checksums[0] + data + checksums[1]
