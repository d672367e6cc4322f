"""Start Python so that it imports nothing from the current folder: that may be a folder of photos, from anyone."""

import os


def environment(*folders: str) -> dict[str, str]:
    """This process's environment variables, for a child process that runs Python.

    folders: searched for modules first, before those in PYTHONPATH. Relative folders in PYTHONPATH are left out: an
        empty one, as in `PYTHONPATH=/mine:`, is the current folder.
    """
    path = [*folders, *filter(os.path.isabs, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return os.environ | {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(path)}
