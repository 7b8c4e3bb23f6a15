"""Tasks: what a model's output must look like, and how it becomes an answer. One module an output.

A `Task` belongs to an output by name. The four of the product are here; a distribution adds one by an entry point in
the group `provider.tasks`, whose name is the output's.
"""

from provider.tasks.protocol import Task
from provider.tasks.registry import (
    GROUP,
    all_outputs,
    check_outputs,
    comparable,
    described,
    find_task,
    installed_tasks,
    wanted,
)

__all__ = [
    "GROUP",
    "Task",
    "all_outputs",
    "check_outputs",
    "comparable",
    "described",
    "find_task",
    "installed_tasks",
    "wanted",
]
