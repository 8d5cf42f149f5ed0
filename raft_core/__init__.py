"""RAFT's algorithm, records and gates: no orchestrator is imported on this floor."""
