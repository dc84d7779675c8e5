"""What a pipeline is still to be fed: a job's own batches, and those that earlier passes have not finished.

A batch that kills its workers is made row by row, so that the one that does it is found. A row is given up only where
the pipeline is known to work: a picture that was made before, or a batch that was not tried yet, is fed with the
suspects, and if not even that comes out, it is no row's fault. Knows nothing of Ray.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Mapping, Set

from v2flow_engine.generation.image_request import ImageRequest

Batch = list[ImageRequest]


class Backlog:
    """The batches of one job, pass by pass: `batches`, then `settle`, until it is `over`. One thread at a time.

    Args:
        source: the job's batches.
        outstanding: gets the requests that were fed; whoever finishes one removes it.

    error: what the source raised, to be told when all that came before it is finished.
    """

    def __init__(self, source: Iterator[Batch], outstanding: dict[int, ImageRequest]) -> None:
        self.outstanding = outstanding
        self.error: Exception | None = None
        self._source = source
        self._ended = False
        self._again: deque[Batch] = deque()  # whole ones: their pictures keep their bytes
        self._suspects: deque[Batch] = deque()  # of one row each
        self._lost: set[int] = set()  # first rows of batches that were lost once without a known reason
        self._made: Batch = []
        # of the pass under way: whether rows are alone in it, with a probe
        self._alone = self._probed = False

    def over(self) -> bool:
        """Whether nothing is left; reads on in the source to find out."""
        if not self._again and not self._suspects:
            self._again.extend(itertools.islice(self._fresh(), 1))
        return not self._again and not self._suspects

    @property
    def suspects(self) -> int:
        """Rows that are to be made alone; the next pass is theirs if there are any."""
        return len(self._suspects)

    def batches(self) -> Iterator[Batch]:
        """Those of the next pass."""
        self._alone, self._probed = bool(self._suspects), False
        if not self._alone:
            yield from _taken(self._again)
            yield from self._fresh()
            return
        probe = self._probe()
        self._probed = probe is not None
        if probe is not None:
            yield probe
        yield from _taken(self._suspects)

    def made(self, request: ImageRequest) -> None:
        """This one's picture came out."""
        self._made = [request]

    def settle(
        self, unfinished: Mapping[int, Batch], died_with: Set[int], *, worked: bool, broken: bool
    ) -> list[ImageRequest]:
        """Take back what a pass has not finished; returns the rows that are given up.

        Args:
            unfinished: number in the pass -> batch.
            died_with: numbers of those that a worker died at work on.
            worked: whether anything came out of the pass.
            broken: whether it ended before its time; if not, all that is unfinished was lost.
        """
        # Else the workers that died took batches along that waited for them.
        unexplained = not broken and not died_with
        # Nothing came out, and nothing was left that should have.
        hopeless = self._alone and not broken and not self._probed
        given_up: list[ImageRequest] = []
        again: list[Batch] = []
        for number, batch in unfinished.items():
            first = batch[0].index
            if first not in self.outstanding:
                continue  # a probe, made long ago
            # A batch of one row in any other pass may have been lost with a neighbour.
            single = self._alone and len(batch) == 1
            lost_again = unexplained and first in self._lost
            guilty = number in died_with or (single and lost_again)
            if guilty and single and (worked or hopeless):
                given_up += batch
            elif guilty or single or lost_again:
                self._suspects.extend([request] for request in batch)
            else:
                again.append(batch)
            if lost_again or guilty:
                self._lost.discard(first)
            elif unexplained:
                self._lost.add(first)
        self._again.extendleft(reversed(again))
        return given_up

    def _probe(self) -> Batch | None:
        """What should come out if anything does: made before, or not tried, or tried as late as possible."""
        if self._made:
            return self._made
        fresh = next(self._fresh(), None)
        return fresh if fresh is not None or not self._again else self._again.pop()

    def _fresh(self) -> Iterator[Batch]:
        while not self._ended:
            try:
                batch = next(self._source)
            except StopIteration:
                self._ended = True
            except Exception as error:
                self.error, self._ended = error, True
            else:
                self.outstanding.update({request.index: request for request in batch})
                yield batch


def _taken(batches: deque[Batch]) -> Iterator[Batch]:
    while batches:
        yield batches.popleft()
