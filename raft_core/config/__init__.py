"""The configuration: one module for each section of the file, composed into ``raft_core.config.run.RaftConfig``.

The defaults are the tested setting. ``raft_core.config.loading.load_config`` reads and checks a file; unknown keys are
refused everywhere. This package imports nothing, so that the key of a step covers only the sections that it reads.
"""
