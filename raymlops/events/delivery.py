"""Delivers events to channels: each has a spool, a thread and time limits of its own, and nobody waits for it."""

import logging
import pathlib
import random
import threading
import time
from collections.abc import Mapping

from raymlops.errors import describe_cause
from raymlops.events.channels import Channel, ChannelAwayError, MessageRefusedError, open_channel
from raymlops.events.event import Event
from raymlops.events.routes import find_channels
from raymlops.events.spool import Spool
from raymlops.events.spool_storage import SpoolFolder, SpoolMemory
from raymlops.specs import notify
from raymlops.specs.notify import NotifySpec

_LOG = logging.getLogger(__name__)

_LONGEST_PAUSE_S = 300.0
_IN_A_ROW = 5
"""Attempts at one message before the next is tried."""
_BUSY_S = 1.0
"""Until the next look at a spool that another process empties."""
_WITHOUT_DISK_S = 30.0
"""After the disk did not take a message in time, memory is used for so long."""


class Notifier:
    """Sends events as a NotifySpec says, at least once each; receivers ignore a second copy by its id.

    `folder` has a spool for each channel. Processes that share it send nothing twice, and what a process that was
    killed had taken in is sent by the next one. `environment` has the secrets that the spec names.
    """

    def __init__(self, spec: NotifySpec, folder: pathlib.Path, environment: Mapping[str, str]) -> None:
        self._spec = spec
        self._senders = {
            name: _Sender(name, settings, make_spools(folder / name, settings, spec), environment)
            for name, settings in spec.channels.items()
        }
        for sender in self._senders.values():
            sender.start()

    def emit(self, event: Event) -> None:
        """Keep the event for its channels, and return at once. Raises nothing."""
        for name in find_channels(event, self._spec):
            try:
                self._senders[name].put(event)
            except Exception:
                _LOG.exception("Channel %s: an event was lost: %s", name, event.what)

    def close(self, wait_s: float = 5.0) -> bool:
        """Send what waits, without gathering repeats, for at most `wait_s` seconds in all, and end; true if nothing is
        left. What is left stays in the spool for the next process."""
        deadline = time.monotonic() + wait_s
        for sender in self._senders.values():
            sender.drain()
        done = [sender.wait_drained(deadline) for sender in self._senders.values()]
        for sender in self._senders.values():
            sender.end()
        return all(done)


def make_spools(folder: pathlib.Path, settings: notify.Channel, spec: NotifySpec) -> list[Spool]:
    """On disk first, then in memory, for a disk that takes no more; the log of a process is of its own alone."""
    storages: list[SpoolFolder | SpoolMemory] = [SpoolMemory()]
    if settings.kind != "log":
        try:
            storages.insert(0, SpoolFolder(folder))
        except OSError as error:
            _LOG.error(
                "No spool at %s (%s): messages wait in memory, and a killed process loses them", folder, error
            )
    return [Spool(storage, spec.spool, spec.fold) for storage in storages]


class _Sender(threading.Thread):
    """The thread of one channel."""

    def __init__(
        self, name: str, settings: notify.Channel, spools: list[Spool], environment: Mapping[str, str]
    ) -> None:
        super().__init__(name=f"notify-{name}", daemon=True)
        self._channel_name, self._settings, self._spools, self._environment = (
            name,
            settings,
            spools,
            environment,
        )
        self._channel: Channel | None = None
        self._changed, self._drained, self._ended = threading.Event(), threading.Event(), threading.Event()
        self._draining = False
        self._failures = 0
        self._not_before = 0.0  # time.monotonic() before which the channel is not tried again
        self._disk_after = 0.0

    def put(self, event: Event) -> None:
        at = time.time()
        first, last = self._spools[0], self._spools[-1]
        if first is not last and time.monotonic() >= self._disk_after:
            try:
                first.put(event, at)
            except OSError as error:
                self._disk_after = time.monotonic() + _WITHOUT_DISK_S
                _LOG.error(
                    "Channel %s: the spool takes no message (%s); it waits in memory",
                    self._channel_name,
                    error,
                )
                last.put(event, at)
        else:
            last.put(event, at)
        self._drained.clear()
        self._changed.set()

    def drain(self) -> None:
        self._draining, self._not_before = True, 0.0
        self._changed.set()

    def wait_drained(self, deadline: float) -> bool:
        self._drained.wait(max(0.0, deadline - time.monotonic()))
        return self._drained.is_set() and not self._failures

    def end(self) -> None:
        self._ended.set()
        self._changed.set()

    def run(self) -> None:
        while not self._ended.is_set():
            draining = self._draining  # once: what was looked at before is not drained
            pause = self._not_before - time.monotonic()
            if pause <= 0:
                pause = min(self._look_at(spool, at_once=draining) for spool in self._spools)
            if draining and (pause > _BUSY_S or self._failures):
                self._drained.set()
            self._changed.wait(pause)
            self._changed.clear()

    def _look_at(self, spool: Spool, *, at_once: bool) -> float:
        try:
            return self._send_due(spool, at_once)
        except TimeoutError:  # of the spool's lock: others write
            return _BUSY_S
        except Exception as error:  # such as a disk that is away; the thread must live
            _LOG.error("Channel %s: %s", self._channel_name, describe_cause(error))
            return self._pause_after_failure(0.0)

    def _send_due(self, spool: Spool, at_once: bool) -> float:
        """Send all whose time has come; gives the seconds until the next look."""
        if not spool.storage.try_sending():
            return _BUSY_S
        try:
            while not self._ended.is_set():
                taken, pause = spool.take(time.time(), at_once=at_once)
                if taken is None:
                    return pause
                try:
                    self._open().send(taken.message)
                except MessageRefusedError as error:
                    spool.refuse(taken)
                    _LOG.error(
                        "Channel %s refused a message: %s: %s",
                        self._channel_name,
                        error,
                        taken.message.event.what,
                    )
                except Exception as error:
                    if self._failures % _IN_A_ROW == _IN_A_ROW - 1:
                        spool.put_back(taken, time.time())
                    self._tell_failure(error)
                    return self._pause_after_failure(
                        error.retry_after if isinstance(error, ChannelAwayError) else 0.0
                    )
                else:
                    spool.finish(taken, time.time())
                    if self._failures:
                        _LOG.warning("Channel %s takes messages again", self._channel_name)
                    self._failures = 0
            return _BUSY_S
        finally:
            spool.storage.end_sending()

    def _open(self) -> Channel:
        if self._channel is None:
            self._channel = open_channel(self._settings, self._environment)
        return self._channel

    def _tell_failure(self, error: Exception) -> None:
        # One line for the first failure of a row, and then ever more rarely.
        if self._failures & (self._failures + 1) == 0:
            told = str(error) if isinstance(error, ChannelAwayError) else describe_cause(error)
            _LOG.warning("Channel %s is away, its messages wait: %s", self._channel_name, told)

    def _pause_after_failure(self, retry_after: float) -> float:
        self._failures += 1
        # Spread, so that processes which failed together do not come back together.
        spread = random.uniform(0.5, 1.0)  # noqa: S311
        pause = max(
            min(retry_after, _LONGEST_PAUSE_S * 12),
            min(_LONGEST_PAUSE_S, 2.0 ** min(self._failures - 1, 20)) * spread,
        )
        self._not_before = time.monotonic() + pause
        return pause
