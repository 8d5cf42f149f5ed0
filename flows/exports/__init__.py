"""A policy's records in other formats: auditor's page, model card, OpenLineage, CycloneDX, signature.

One module per format. Each reads a ``Dossier``, which reads only the records, and returns text. The same records give
the same text: times come from the event log, never from the time of the export.
"""
