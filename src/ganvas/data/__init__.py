"""Pictures in: find (`source`), decode, cache, report, batch (`batches`), and tell mirror images (`symmetry`).

    open_source("photos/") ──▶ Source ──▶ prepare(source, settings, cache_root) ──▶ Dataset ──▶ Batches.take + gather

Nothing here imports torch: worker processes import these modules, and NumPy is all they need.
"""
