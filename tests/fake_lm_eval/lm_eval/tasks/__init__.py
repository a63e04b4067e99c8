"""The manager of tasks: it knows any name but ``unknown``."""


class TaskManager:
    def __init__(self, include_path: str | None = None, include_defaults: bool = True) -> None:
        self.folders = include_path, include_defaults

    def load_task_or_group(self, names: list[str]) -> None:
        if "unknown" in names:
            raise KeyError("unknown")
        print("fetched", *names)
