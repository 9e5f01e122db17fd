"""What a deployable is: structs, validation with coded errors, readers and writers.

Imports nothing of ours. Import from the modules: `deployable` (structs), `errors` (the error tree), `manifest` (YAML),
`xml` (the document that other software sends), `templates` (resource templates), `validation`.
"""
