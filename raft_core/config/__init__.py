"""The configuration: one module a part, composed into ``raft_core.config.run.RaftConfig``.

The defaults are the vetted setting. It is read and checked by ``raft_core.loading.load_config``; unknown keys are
refused everywhere. Nothing is imported here, so that a step's key covers the parts that the step reads, and no others.
"""
