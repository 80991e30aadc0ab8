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


class EventWriter:
    """A writer of a run's scalars to one event file per session; the file appears with the first scalar.

    Args:
        directory: directory of the event files, created when needed.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._writer: Any = None
        self._resumed_after: int | None = None

    def resume(self, step: int) -> None:
        """Tells TensorBoard to forget what earlier sessions wrote beyond `step`."""
        self._resumed_after = step

    def add(self, step: int, figures: Mapping[str, float]) -> None:
        """Writes scalars, one tag each, and hands them to the operating system."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        now = time.time()
        if self._writer is None:
            self.directory.mkdir(parents=True, exist_ok=True)
            name = (
                f"events.out.tfevents.{int(now):010d}.{socket.gethostname()}.{os.getpid()}.{time.time_ns()}"
            )
            self._writer = RecordWriter((self.directory / name).open("xb"))
            self._writer.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
            if self._resumed_after is not None:
                session = SessionLog(status=SessionLog.START)
                event = Event(wall_time=now, step=self._resumed_after + 1, session_log=session)
                self._writer.write(event.SerializeToString())
        scalars = [Summary.Value(tag=tag, simple_value=value) for tag, value in figures.items()]
        event = Event(wall_time=now, step=step, summary=Summary(value=scalars))
        self._writer.write(event.SerializeToString())
        self._writer.flush()

    def close(self) -> None:
        """Closes the file; a later `add` starts another one."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
