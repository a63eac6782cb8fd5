"""The search for a scale, under the name that scripts beside the benchmarks know; it is the package's own."""

from tclora.pipeline.scale_search import search_scale as search

__all__ = ["search"]
