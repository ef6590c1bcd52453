"""Loaded by every Python that has this folder on its PYTHONPATH: breaks or records calls of `dlcluster/files.py`."""

import os

if {"DLCLUSTER_FAULT", "DLCLUSTER_CALLS", "DLCLUSTER_RECORD"} & os.environ.keys():
    import faulty_os

    faulty_os.install_from_environment()
