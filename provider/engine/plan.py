"""How a model shares the cores of its process."""

from attrs import frozen

from provider.settings import ModelSettings

# More lanes than this contend for the interpreter lock; further cores go to the threads of each lane.
MAX_AUTO_LANES = 4


@frozen
class LanePlan:
    """`lanes` forward passes at a time, `threads` CPU threads each."""

    lanes: int
    threads: int

    @classmethod
    def of(cls, settings: ModelSettings, *, is_concurrent: bool, cores: int) -> "LanePlan":
        """Follow the settings; what they leave open is chosen so that lanes x threads stay within the cores."""
        if not is_concurrent:
            lanes = 1
        elif settings.lanes is not None:
            lanes = settings.lanes
        else:
            lanes = min(MAX_AUTO_LANES, max(1, cores // (settings.threads_per_lane or 1)))
        return cls(lanes, settings.threads_per_lane or max(1, cores // lanes))

    def alternatives(self, settings: ModelSettings, *, is_concurrent: bool, cores: int) -> list["LanePlan"]:
        """This plan, then others that the settings allow and that use the cores as fully: to be measured against it."""
        if not is_concurrent or settings.lanes is not None or settings.threads_per_lane is not None:
            return [self]
        others = {
            LanePlan(lanes, cores // lanes) for lanes in (1, self.lanes // 2, 2 * self.lanes) if 0 < lanes <= cores
        }
        return [self, *sorted(others - {self}, key=lambda plan: plan.lanes)]
