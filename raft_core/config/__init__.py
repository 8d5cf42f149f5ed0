"""The configuration: one module a part, composed into ``raft_core.config.run.RaftConfig``.

The defaults are the vetted setting. ``raft_core.config.loading.load_config`` reads and checks it; unknown keys are
refused everywhere. Nothing is imported here, so that a step's key covers the parts that the step reads, and no others.
"""
