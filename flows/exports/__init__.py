"""What a policy's records become for others: an auditor's page, a model card, OpenLineage, CycloneDX, a signature.

One module a format; each reads a ``Dossier``, which reads the records alone, and returns text. The same records give
the same text: times are those of the events, and none is the time of the export.
"""
