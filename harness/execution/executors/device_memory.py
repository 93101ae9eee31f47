"""Several runs on one device at a time, as far as its memory goes."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Room:
    """The memory of one device, as a whole of 1 that runs take their shares of."""

    def __init__(self) -> None:
        self._shares: list[float] = []
        self._change = threading.Condition()
        self._turn = threading.Lock()

    def take(self, share: float, given_up: Callable[[], bool] = lambda: False) -> bool:
        """Waits until a share is free, or until it is given up, and returns whether it was taken.

        Where no other run is, any share is free. Who waits is let in before those who come later, so that a
        large run is not kept out by small ones.

        Args:
            share: of the memory, at least 0; ``math.inf`` to be alone.
            given_up: asked about twice a second.
        """
        with self._turn, self._change:
            while self._shares and sum(self._shares) + share > 1:
                if given_up():
                    return False
                self._change.wait(0.5)
            self._shares.append(share)
            return True

    def leave(self, share: float) -> None:
        """Gives a share back."""
        with self._change:
            self._shares.remove(share)
            self._change.notify_all()
