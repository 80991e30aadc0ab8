"""Writes TensorBoard's event files with the `tensorboard` package alone.

The package's own `EventFileWriter` opens files through TensorFlow wherever that is installed, which costs seconds
and hundreds of megabytes. Only the package's record format and messages are used here.
"""

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_PREFIX = "validation_"


class EventWriter:
    """A writer of a run's scalars and texts, to one event file per part and session; a file appears when needed.

    The parts are `train` and `validation`, each in a directory of its own, and a figure has the same tag in both. That
    makes `train/loss` and `validation/loss` two curves of one chart, since TensorBoard takes a directory for a run and
    draws the runs of a tag together.

    Args:
        directory: the directory of both parts, created when needed.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._writers: dict[str, Any] = {}
        self._resumed_after: int | None = None

    def resume(self, step: int) -> None:
        """Tells TensorBoard to forget what earlier sessions wrote beyond `step`."""
        self._resumed_after = step

    def add(self, step: int, figures: Mapping[str, float]) -> None:
        """Writes scalars, of which those named `validation_…` belong to that part, to the operating system.

        Raises:
            OSError: a file cannot be written.
        """
        from tensorboard.compat.proto.summary_pb2 import Summary

        parts: dict[str, list[Any]] = {}
        for name, value in figures.items():
            part = "validation" if name.startswith(_PREFIX) else "train"
            scalar = Summary.Value(tag=name.removeprefix(_PREFIX), simple_value=value)
            parts.setdefault(part, []).append(scalar)
        for part, values in parts.items():
            self._write(part, step, Summary(value=values))

    def add_text(self, step: int, tag: str, text: str) -> None:
        """Writes a text, which TensorBoard shows as it stands, without taking it for Markdown.

        Raises:
            OSError: the file cannot be written.
        """
        from tensorboard.compat.proto.summary_pb2 import DATA_CLASS_TENSOR, Summary, SummaryMetadata
        from tensorboard.compat.proto.tensor_pb2 import TensorProto
        from tensorboard.compat.proto.types_pb2 import DT_STRING

        shown = "\n".join("    " + line for line in text.splitlines())  # a block of code in Markdown
        tensor = TensorProto(dtype=DT_STRING, string_val=[shown.encode(errors="replace")])
        plugin = SummaryMetadata.PluginData(plugin_name="text")
        metadata = SummaryMetadata(plugin_data=plugin, data_class=DATA_CLASS_TENSOR)
        value = Summary.Value(tag=tag, tensor=tensor, metadata=metadata)
        self._write("validation", step, Summary(value=[value]))

    def close(self) -> None:
        """Closes the files; a later `add` starts others."""
        writers, self._writers = self._writers, {}
        for writer in writers.values():
            writer.close()

    def _write(self, part: str, step: int, summary: Any) -> None:
        """Writes an event to the file of a part, which is begun if there is none yet."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        now = time.time()
        writer = self._writers.get(part)
        if writer is None:
            directory = self.directory / part
            directory.mkdir(parents=True, exist_ok=True)
            name = (
                f"events.out.tfevents.{int(now):010d}.{socket.gethostname()}.{os.getpid()}.{time.time_ns()}"
            )
            writer = self._writers[part] = RecordWriter((directory / name).open("xb"))
            writer.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
            if self._resumed_after is not None:
                session = SessionLog(status=SessionLog.START)
                event = Event(wall_time=now, step=self._resumed_after + 1, session_log=session)
                writer.write(event.SerializeToString())
        writer.write(Event(wall_time=now, step=step, summary=summary).SerializeToString())
        writer.flush()
