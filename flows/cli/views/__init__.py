"""How a run is shown to a person or a script. Reads records; writes nothing."""
